// Photographs to label: the queue of `vitrine label next`, with keyboard shortcuts. Requires page.js.

"use strict";

const REFRESH = "Refresh";

class Queue extends HTMLElement {
  connectedCallback() {
    if (this.card) return;
    this.count = element("span", { className: "count", role: "status" });
    this.progress = element("progress", { ariaLabel: "Items labeled" });
    this.card = element("div", { className: "to-label", tabIndex: -1, role: "group", ariaLabel: "Item to label" });
    this.message = element("p", { className: "note", role: "status" });
    this.append(element("div", { className: "tools" }, this.count), this.progress, this.card, this.message);
    this.addEventListener("keydown", (event) => this.key(event));
    const modes = [...document.querySelectorAll(".modes input")];
    for (const mode of modes) mode.onchange = () => vitrine.set({ labels: mode.value === "queue" ? mode.value : null }, true);
    if (new URLSearchParams(location.search).get("labels") === "queue") modes.find((mode) => mode.value === "queue").checked = true;
    this.load();
  }

  async ask(address, body) {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    let response;
    try {
      response = await fetch(address, options);
    } catch {
      throw new Error("The server is not responding. Is it still running?");
    }
    const reply = await response.json();
    if (!response.ok) throw new Error(reply.error ?? `error ${response.status}`);
    return reply;
  }

  async load() {
    Object.assign(this, { items: [], tasks: [], waiting: [], done: [], chosen: {}, saving: false });
    try {
      Object.assign(this, await this.ask("/queue"));
    } catch (error) {
      this.problem = error.message;
    }
    this.waiting = this.items.filter((item) => !item.labels.class);
    this.message.textContent = this.warning ?? "";
    this.draw();
  }

  get item() { return this.waiting[0]; }

  // The current task: the first one without an answer, or one that was reopened.
  get task() { return this.tasks.find(({ task }) => !(task in this.chosen)); }

  // Request the model's prediction of an item, once.
  predict(item) {
    item.prediction ??= this.ask(`/queue/prediction/${item.key}`).then((record) => { item.record = record; }, (error) => { item.fault = error.message; })
      .then(() => { if (this.item === item) this.draw(this.contains(document.activeElement)); });
  }

  // The labels of a task, the model's most probable ones first.
  choices({ task, labels }) {
    const ranked = this.item.record?.tasks[task]?.labels ?? [], names = Object.fromEntries(labels.map(({ label, name }) => [label, name]));
    const first = ranked.filter(({ label }) => label in names).map(({ label, probability }) => ({ label, name: names[label], probability }));
    return [...first, ...labels.filter(({ label }) => !first.some((each) => each.label === label))];
  }

  draw(focus = false) {
    const total = this.items.length, left = this.waiting.length;
    this.count.textContent = total ? `${total - left} of ${total} labeled` : "";
    Object.assign(this.progress, { max: Math.max(total, 1), value: total - left, hidden: !total });
    this.card.replaceChildren(...(this.item ? this.drawn() : [this.drawnEmpty()]));
    if (focus) this.card.focus();
  }

  drawnEmpty() {
    const again = button(REFRESH, () => this.load(), { className: "plain" });
    const undo = this.done.length ? [this.undoButton()] : [];
    const box = (title, text, ...commands) => element("div", { className: "empty" }, element("strong", { textContent: title }), text,
      ...(commands.length ? [element("pre", { tabIndex: 0, ariaLabel: "Commands" }, ...commands.map((text) => element("code", { textContent: text })))] : []),
      element("div", { className: "actions" }, again, ...undo));
    const make = ["vitrine index add unlabeled/ --index unlabeled_index", `vitrine label next unlabeled_index --num 20 --out ${this.file}`];
    if (this.problem) return box("The queue cannot be shown", this.problem);
    if (!this.items.length) return box("No photographs to label", "Put photographs without labels into a folder, and choose those that are worth labeling:", ...make);
    return box("Every item of the queue has labels", "Add them to your dataset and train:", `vitrine label add ${this.file}`, "dvc repro");
  }

  undoButton() {
    const nothing = !this.done.length && !Object.keys(this.chosen).length;
    return button("Undo (U)", () => this.undo(), { className: "plain", disabled: nothing });
  }

  drawn() {
    const { item } = this, next = this.waiting[1];
    this.predict(item);
    if (next && (item.record || item.fault)) this.predict(next);
    const photos = item.photos.map(({ key, name }) => this.drawnPhoto(key, name));
    const views = element("div", { className: item.photos.length > 1 ? "views several" : "views" }, ...photos);
    const several = item.photos.length > 1 ? `${item.photos.length} photographs of one item. ` : "";
    const skip = button("Skip (S)", () => this.skip(), { className: "plain", disabled: this.saving });
    if (!item.record && !item.fault) {
      const waiting = element("p", { className: "note" }, element("span", { className: "spinner" }), "Asking the model…");
      return [views, element("div", {}, element("h2", { textContent: item.name }), waiting, element("div", { className: "actions" }, skip, this.undoButton()))];
    }
    const steps = this.tasks.map((each) => this.drawnStep(each));
    const note = item.fault ? `${several}No prediction: ${item.fault}` : `${several}Prediction: ${item.record.answer}.`;
    return [views, element("div", {}, element("h2", { textContent: item.name }), element("p", { className: "note", textContent: note }),
      element("ol", { className: "steps" }, ...steps), element("div", { className: "actions" }, ...this.actions(), skip, this.undoButton()))];
  }

  drawnPhoto(key, name) {
    const image = element("img", { src: `/queue/photo/${key}`, alt: name });
    image.onerror = () => image.replaceWith(element("p", { className: "broken", textContent: `${name} cannot be read` }));
    return image;
  }

  drawnStep(each) {
    const { task, name } = each, now = this.task === each;
    if (!now && task in this.chosen) {
      const { name: label } = each.labels.find(({ label: known }) => known === this.chosen[task]) ?? { name: "no label" };
      const change = button("Change", () => this.goBack(task), { className: "quiet", ariaLabel: `Change ${name}` });
      return element("li", {}, `${name}: `, element("b", { textContent: label }), change);
    }
    if (!now) return element("li", { className: "later", textContent: name });
    const choices = this.choices(each);
    const buttons = choices.slice(0, 9).map(({ label, name: text, probability }, number) => button(
      `${number + 1}  ${text}${probability === undefined ? "" : ` ${percent(probability)}`}`, () => this.choose(label),
      { className: number === 0 && probability !== undefined ? "plain label proposed" : "plain label", disabled: this.saving }));
    const others = choices.slice(9);
    const select = element("select", { ariaLabel: `Another ${name}`, disabled: this.saving, onchange: () => select.value && this.choose(select.value) },
      element("option", { value: "", textContent: "Another label…" }), ...others.map(({ label, name: text }) => element("option", { value: label, textContent: text })));
    return element("li", { ariaCurrent: "step" }, element("h3", { textContent: name }),
      element("div", { className: "labels" }, ...buttons, ...(others.length ? [select] : [])));
  }

  actions() {
    const { task } = this;
    if (!task) return [button("Save (Enter)", () => this.save(), { className: "plain", disabled: this.saving })];
    const [first] = this.choices(task);
    const accept = first?.probability === undefined ? [] : [button(`${first.name} is right (Enter)`, () => this.choose(first.label), { className: "plain", disabled: this.saving })];
    const none = task.task === "class" ? [] : [button("No label (N)", () => this.choose(""), { className: "plain", disabled: this.saving })];
    return [...accept, ...none];
  }

  choose(label) {
    if (!this.task || this.saving) return undefined;
    this.chosen[this.task.task] = label;
    if (!this.task) return this.save();
    return this.draw(true);
  }

  goBack(task) {
    delete this.chosen[task];
    this.draw(true);
  }

  async save() {
    const { item } = this, labels = { ...this.chosen };
    this.saving = true;
    this.draw(true);
    try {
      this.message.textContent = (await this.ask("/api/queue", { key: item.key, labels })).done;
      this.waiting.shift();
      this.done.push({ item, labels });
      this.chosen = {};
    } catch (error) {
      this.message.textContent = error.message;
    }
    this.saving = false;
    this.draw(true);
  }

  // Move the item to the end of the queue.
  skip() {
    if (this.saving) return;
    const item = this.waiting.shift();
    this.waiting.push(item);
    this.done.push({ item, chosen: this.chosen });
    this.chosen = {};
    this.message.textContent = "It will be shown again at the end.";
    this.draw(true);
  }

  // Undo the last label, the last skip, or the last save together with its last label.
  async undo() {
    if (this.saving) return;
    const given = Object.keys(this.chosen).at(-1), last = this.done.at(-1);
    if (given !== undefined) {
      delete this.chosen[given];
    } else if (last?.labels) {
      this.saving = true;
      try {
        this.message.textContent = (await this.ask("/api/queue", { key: last.item.key, labels: {} })).done;
        this.waiting.unshift(last.item);
        this.done.pop();
        this.chosen = Object.fromEntries(Object.entries(last.labels).slice(0, -1));
      } catch (error) {
        this.message.textContent = error.message;
      }
      this.saving = false;
    } else if (last) {
      this.waiting.splice(this.waiting.lastIndexOf(last.item), 1);
      this.waiting.unshift(last.item);
      this.chosen = last.chosen;
      this.done.pop();
      this.message.textContent = "";
    }
    this.draw(true);
  }

  key(event) {
    if (event.target.closest("select, input") || event.ctrlKey || event.metaKey || event.altKey || this.saving) return;
    const { item, task } = this, key = event.key.toLowerCase(), ready = item && (item.record || item.fault);
    if (key === "enter" && event.target.closest("button")) return;
    const choices = ready && task ? this.choices(task) : [], number = Number(event.key) - 1;
    if (choices[number] && number < 9) this.choose(choices[number].label);
    else if (key === "enter" && choices[0]?.probability !== undefined) this.choose(choices[0].label);
    else if (key === "enter" && ready && !task) this.save();
    else if (ready && task && key === "n" && task.task !== "class") this.choose("");
    else if (item && key === "s") this.skip();
    else if (key === "u") this.undo();
    else return;
    event.preventDefault();
  }
}

customElements.define("vitrine-queue", Queue);
