// What the page does in the browser: keeps its state in the URL, enlarges photographs, identifies many at once, and
// reviews labels. It makes no requests to other hosts.

"use strict";

const MAX_BATCH = 200, MAX_ITEM = 12, AT_ONCE = 2;
const CERTAINTIES = { confident: "confident", unsure: "unsure", unreliable: "not reliable on this data" };
const EMPTY = new Set(["", null, undefined]);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const button = (text, onclick, more = {}) => element("button", { type: "button", textContent: text, onclick, ...more });
const percent = (value) => (value < 0.005 ? "<1%" : `${Math.round(100 * value)}%`);
const plural = (num, word) => `${num} ${word}${num === 1 ? "" : "s"}`;

// -- the URL -------------------------------------------------------------------------------------------------------

const FIRST_TAB = "identify";
let pendingLike = null; // the photograph of a pending search for similar ones
let tabReported = false;

const vitrine = {
  // Change parts of the URL; null removes a part. A change adds an entry to the history unless it replaces the last one.
  set(changes, replace = false) {
    const query = new URLSearchParams(location.search);
    let changed = false;
    for (const [key, value] of Object.entries(changes)) {
      const values = [value].flat().filter((each) => !EMPTY.has(each) && !(key === "tab" && each === FIRST_TAB)).map(String);
      if (JSON.stringify(values) === JSON.stringify(query.getAll(key))) continue;
      changed = true;
      query.delete(key);
      for (const each of values) query.append(key, each);
    }
    if (!changed) return false;
    const text = query.toString().replaceAll("%2F", "/");
    history[replace ? "replaceState" : "pushState"]({ opened: changes.hit }, "", text ? `?${text}` : location.pathname);
    if (!("hit" in changes)) shownQuery = withoutHit();
    return true;
  },
  // Called when a tab is shown. The first tab is also reported while the page loads, possibly before the tab in the
  // URL opens; that call does not change the URL.
  tab(id) {
    const loading = !tabReported;
    tabReported = true;
    if (!loading || id !== FIRST_TAB) vitrine.set({ tab: id });
  },
  // Write a search into the URL, unless the page is already loading another state. A search that came from the URL
  // adds no entry to the history.
  remember(tasks, fromAddress, words, model, like, ...chosen) {
    document.documentElement.dataset.ready = "";
    if (pendingLike !== null && pendingLike !== (like || null)) return;
    pendingLike = null;
    if (new URLSearchParams(location.search).get("tab") !== "search") return;
    const labels = Object.fromEntries(tasks.map((task, place) => [task, chosen[place]]));
    vitrine.set({ q: words, model, like, ...labels }, fromAddress);
  },
  // Show photographs similar to one in the gallery; the server reads the URL.
  like(place) {
    pendingLike = place;
    vitrine.set({ tab: "search", like: place, q: null });
    document.querySelector("#go").click();
  },
};
window.vitrine = vitrine;

const hitOf = () => new URLSearchParams(location.search).get("hit");

function withoutHit() {
  const query = new URLSearchParams(location.search);
  query.delete("hit");
  return query.toString();
}

let shownQuery = withoutHit(); // the query that the page shows, without an opened photograph

addEventListener("popstate", () => {
  if (hitOf()) openHit(hitOf(), false);
  else if (lightbox.open) lightbox.close();
  if (withoutHit() === shownQuery) return;
  shownQuery = withoutHit();
  document.querySelector("#go")?.click();
});

// -- photographs shown large ---------------------------------------------------------------------------------------

const lightbox = element("dialog", { className: "lightbox", ariaLabel: "Photograph" });
const shown = element("div", { className: "content" });
const bar = element("div", { className: "bar-top" });
const previous = button("‹", () => step(-1), { ariaLabel: "Previous", title: "Previous (left arrow)" });
const next = button("›", () => step(1), { ariaLabel: "Next", title: "Next (right arrow)" });
const place = element("span", { className: "place" });
bar.append(previous, place, next, button("Close", () => lightbox.close(), { className: "close", title: "Close (Escape)" }));
lightbox.append(bar, shown);
document.addEventListener("DOMContentLoaded", () => document.body.append(lightbox));

let group = [], at = -1, opener = null, wanted = null;

lightbox.addEventListener("close", () => {
  wanted = null;
  shown.replaceChildren();
  if (hitOf() && history.state?.opened) history.back();
  else if (hitOf()) vitrine.set({ hit: null }, true);
  if (opener?.isConnected) opener.focus();
});
lightbox.addEventListener("click", (event) => { if (event.target === lightbox) lightbox.close(); });
lightbox.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

function step(by) {
  if (group.length > 1) openHit(group[(at + by + group.length) % group.length], true, true);
}

function present(content, label) {
  lightbox.ariaLabel = label;
  shown.replaceChildren(content);
  lightbox.scrollTop = 0;
  previous.hidden = next.hidden = place.hidden = group.length < 2;
  place.textContent = `${at + 1} of ${group.length}`;
  if (!lightbox.open) lightbox.showModal();
}

async function openHit(hit, remember = true, replace = false) {
  if (!group.includes(hit)) group = [hit];
  at = group.indexOf(hit);
  wanted = hit;
  const content = element("div");
  try {
    const response = await fetch(`/hit/${hit}`);
    if (response.ok) content.innerHTML = await response.text();
    else content.append(element("p", { textContent: (await response.json()).error }));
  } catch {
    content.append(element("p", { textContent: "The server is not responding. Is it still running?" }));
  }
  if (wanted !== hit) return; // another one was opened in the meantime
  if (remember) vitrine.set({ hit }, replace);
  present(content, content.querySelector("h2")?.textContent ?? "Photograph");
}

document.addEventListener("click", (event) => {
  const [hit, figure, like] = ["[data-hit]", "[data-figure]", "[data-like]"].map((kind) => event.target.closest(kind));
  if (hit) {
    const inside = lightbox.contains(hit);
    if (!inside) opener = hit;
    group = [...hit.closest("#results, #similar, .lightbox").querySelectorAll("[data-hit]")].map((each) => each.dataset.hit);
    openHit(hit.dataset.hit, true, inside);
  } else if (figure) {
    opener = figure;
    group = [];
    const { alt } = figure.querySelector("img");
    present(element("img", { className: "figure", src: figure.dataset.figure, alt }), alt);
  } else if (like) {
    opener = null;
    vitrine.set({ hit: null }, true);
    lightbox.close();
    vitrine.like(like.dataset.like);
  }
});

document.addEventListener("DOMContentLoaded", () => {
  if (hitOf()) openHit(hitOf(), false);
});

// -- a clip --------------------------------------------------------------------------------------------------------

// A clip dropped on the field for photographs goes to the field for clips, as if it had been chosen there.
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer?.files ?? [];
  const input = document.querySelector("input#identify-clip, #identify-clip input, :has(> #identify-clip) > input[type=file]");
  if (!input || !event.target.closest?.("#identify-photo") || !/^video\//.test(file?.type ?? "")) return;
  event.preventDefault();
  event.stopPropagation();
  const chosen = new DataTransfer();
  chosen.items.add(file);
  input.files = chosen.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}, true);

// -- many photographs ----------------------------------------------------------------------------------------------

async function filesOf(transfer) {
  const read = async (entry) => {
    if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
    const reader = entry.createReader(), files = [];
    for (;;) {
      const batch = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!batch.length) return files;
      for (const each of batch) files.push(...(await read(each)));
    }
  };
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(read))).flat() : [...transfer.files];
}

function download(name, text, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const cell = (value) => (/[",\n\r]/.test(String(value)) || /^[=+@-]/.test(String(value))
  ? `"${String(value).replace(/^([=+@-])/, "'$1").replaceAll('"', '""')}"` : String(value));

class Batch extends HTMLElement {
  connectedCallback() {
    if (this.table) return;
    this.rows = [];
    this.order = { key: null, up: true };
    const take = (input) => { this.add([...input.files]); input.value = ""; };
    const files = element("input", { type: "file", multiple: true, accept: "image/*", hidden: true });
    const folder = element("input", { type: "file", webkitdirectory: true, hidden: true });
    files.onchange = () => take(files);
    folder.onchange = () => take(folder);
    this.zone = element("div", { className: "zone" },
      element("p", { textContent: `Drop up to ${MAX_BATCH} photographs or a folder here, or` }),
      button("Choose photographs", () => files.click(), { className: "plain" }),
      button("Choose a folder", () => folder.click(), { className: "plain" }), files, folder);
    for (const kind of ["dragenter", "dragover"]) {
      this.zone.addEventListener(kind, (event) => { event.preventDefault(); this.zone.classList.add("over"); });
    }
    this.zone.addEventListener("dragleave", () => this.zone.classList.remove("over"));
    this.zone.addEventListener("drop", async (event) => {
      event.preventDefault();
      this.zone.classList.remove("over");
      this.add(await filesOf(event.dataTransfer));
    });
    this.status = element("p", { className: "note", role: "status" });
    this.progress = element("progress", { hidden: true, ariaLabel: "Photographs identified" });
    this.fuseButton = button("Combine as one item", () => this.fuse(), { className: "plain", disabled: true });
    this.tools = element("div", { className: "tools", hidden: true }, this.fuseButton,
      button("Save as CSV", () => this.save("csv"), { className: "plain" }),
      button("Save as JSON", () => this.save("json"), { className: "plain" }),
      button("Clear", () => this.clear(), { className: "plain" }));
    this.table = element("div", { className: "scroll" });
    this.append(element("h2", { className: "section", textContent: "Many photographs" }), this.zone, this.progress,
      this.status, this.tools, this.table);
  }

  get model() {
    const chosen = document.querySelector("#identify-model input:checked")?.value;
    return !chosen || chosen === "compare" ? this.dataset.model : chosen;
  }

  add(files) {
    const images = files.filter((file) => file.type.startsWith("image/") || /\.(jpe?g|png|webp|bmp|gif|tiff?)$/i.test(file.name));
    const room = MAX_BATCH - this.rows.length, taken = images.slice(0, room);
    const left = [];
    if (images.length > taken.length) left.push(`${plural(images.length - taken.length, "photograph")} beyond ${MAX_BATCH} left out`);
    if (files.length > images.length) left.push(`${plural(files.length - images.length, "other file")} left out`);
    this.left = left.join("; ");
    for (const file of taken) {
      this.rows.push({ files: [file], name: file.webkitRelativePath || file.name, urls: [URL.createObjectURL(file)], state: "waiting" });
    }
    this.run();
  }

  async run() {
    if (this.running) return;
    this.running = true;
    const worker = async () => {
      for (;;) {
        const row = this.rows.find((each) => each.state === "waiting");
        if (!row) return;
        row.state = "running";
        await this.identify(row);
        this.draw();
      }
    };
    this.draw();
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    this.running = false;
    this.draw();
  }

  async identify(row) {
    const form = new FormData();
    for (const file of row.files) form.append("photos", file, file.name);
    try {
      for (let attempt = 0; ; attempt++) {
        const response = await fetch(`/api/predict?model=${encodeURIComponent(this.model)}`, { method: "POST", body: form });
        if (response.status === 503 && attempt < 20) { // other predictions are running
          await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") || 1)));
          continue;
        }
        const reply = await response.json();
        if (!response.ok) throw new Error(reply.error ?? `error ${response.status}`);
        row.record = { ...reply.answers[0], image_path: row.name };
        row.state = "done";
        return;
      }
    } catch (error) {
      row.error = error instanceof TypeError ? "The server is not responding." : error.message;
      row.state = "failed";
    }
  }

  fuse() {
    const chosen = this.rows.filter((row) => row.chosen);
    const row = {
      files: chosen.flatMap((each) => each.files), urls: chosen.flatMap((each) => each.urls), state: "waiting",
      name: chosen.map((each) => each.name).join(" + "),
    };
    if (row.files.length > MAX_ITEM) {
      this.status.textContent = `At most ${MAX_ITEM} photographs of one item can be combined.`;
      return;
    }
    this.rows.splice(this.rows.indexOf(chosen[0]), 0, row);
    this.rows = this.rows.filter((each) => !each.chosen);
    this.run();
  }

  clear() {
    for (const url of this.rows.flatMap((row) => row.urls)) URL.revokeObjectURL(url);
    this.rows = [];
    this.left = "";
    this.draw();
  }

  value(row, key) {
    if (key === "name") return row.name.toLowerCase();
    if (!row.record) return "";
    if (key === "answer") return row.record.answer.toLowerCase();
    return row.record.tasks[key].labels[0].probability;
  }

  sorted() {
    const { key, up } = this.order;
    if (!key) return this.rows;
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    return [...this.rows].sort((a, b) => (up ? 1 : -1) * compare(this.value(a, key), this.value(b, key)));
  }

  draw() {
    const done = this.rows.filter((row) => ["done", "failed"].includes(row.state)).length, total = this.rows.length;
    const failed = this.rows.filter((row) => row.state === "failed").length;
    this.progress.hidden = !this.running;
    Object.assign(this.progress, { max: Math.max(total, 1), value: done });
    const messages = this.running ? [`Identifying ${Math.min(done + 1, total)} of ${total}…`] : total ? [`${plural(done - failed, "answer")}`] : [];
    if (failed) messages.push(`${plural(failed, "file")} could not be read`);
    if (this.left) messages.push(this.left);
    this.status.textContent = messages.length ? `${messages.join("; ").replace(/…$/, "")}${this.running ? "…" : "."}` : "";
    this.tools.hidden = !total;
    this.fuseButton.disabled = this.running || this.rows.filter((row) => row.chosen).length < 2;
    this.table.replaceChildren(...(total ? [this.drawn()] : []));
  }

  drawn() {
    const tasks = Object.keys(this.rows.find((row) => row.record)?.record.tasks ?? {});
    const head = [["name", "File"], ["answer", "Answer"], ...tasks.map((task) => [task, vitrineNames(task)])];
    const headers = head.map(([key, text]) => {
      const here = this.order.key === key;
      const sort = button(`${text}${here ? (this.order.up ? " ▲" : " ▼") : ""}`, () => {
        this.order = { key, up: here ? !this.order.up : true };
        this.draw();
      });
      return element("th", { scope: "col", ariaSort: here ? (this.order.up ? "ascending" : "descending") : "none" }, sort);
    });
    const body = this.sorted().map((row) => this.line(row, tasks));
    return element("table", { className: "batch" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, element("span", { className: "unseen", textContent: "Choose" })),
        element("th", { scope: "col", textContent: "Photo" }), ...headers)),
      element("tbody", {}, ...body));
  }

  line(row, tasks) {
    const chosen = element("input", { type: "checkbox", checked: Boolean(row.chosen), disabled: row.state !== "done", ariaLabel: `Choose ${row.name}` });
    chosen.onchange = () => {
      row.chosen = chosen.checked;
      this.fuseButton.disabled = this.running || this.rows.filter((each) => each.chosen).length < 2;
    };
    const images = row.urls.map((src) => element("img", { src, alt: "" }));
    const cells = row.record
      ? [element("td", { className: "answer-cell" }, row.record.answer, ...reasonOf(row.record)), ...tasks.map((task) => {
        const { certainty, labels: [first] } = row.record.tasks[task];
        return element("td", { title: CERTAINTIES[certainty] },
          `${vitrineNames(first.label)} ${percent(first.probability)} `,
          element("span", { className: `certainty ${certainty}`, textContent: CERTAINTIES[certainty] }));
      })]
      : [element("td", { colSpan: tasks.length + 1, className: row.error ? "wrong" : "note", textContent: row.error ?? (row.state === "running" ? "Identifying…" : "waiting") })];
    return element("tr", {}, element("td", {}, chosen), element("td", { className: "thumbs" }, ...images),
      element("td", { textContent: row.name, className: "name" }), ...cells);
  }

  save(kind) {
    const records = this.sorted().map((row) => row.record ?? { image_path: row.name, error: row.error ?? "not identified yet" });
    if (kind === "json") return download("vitrine.json", JSON.stringify(records, null, 2), "application/json");
    const tasks = Object.keys(records.find((record) => record.tasks)?.tasks ?? {});
    const lines = [["image_path", "answer", "refused", "novelty", ...tasks.flatMap((task) => [task, `${task}_probability`, `${task}_certainty`]), "error"]];
    for (const record of records) {
      const { refused = "", score = "" } = record.novelty ?? {};
      lines.push([record.image_path, record.answer ?? "", refused, score, ...tasks.flatMap((task) => {
        const prediction = record.tasks?.[task];
        return prediction ? [prediction.labels[0].label, prediction.labels[0].probability, prediction.certainty] : ["", "", ""];
      }), record.error ?? ""]);
    }
    return download("vitrine.csv", lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n", "text/csv");
  }
}

// Explanation, below the answer, of why a photograph belongs to none of the classes.
const reasonOf = ({ novelty }) => (novelty?.refused ? [element("span", { className: "reason", textContent: novelty.reason })] : []);

// Display names of labels; the server writes the list into the page.
function vitrineNames(label) {
  vitrineNames.known ??= JSON.parse(document.querySelector("[data-names]")?.dataset.names ?? "{}");
  return vitrineNames.known[label] ?? label.replaceAll("_", " ").trim();
}

// -- labels to fix -------------------------------------------------------------------------------------------------

class Labels extends HTMLElement {
  connectedCallback() {
    if (this.card) return;
    const choices = (list, label, onchange) => {
      const select = element("select", { onchange }, ...JSON.parse(list).map(([text, value]) => element("option", { textContent: text, value })));
      return [element("label", {}, `${label} `, select), select];
    };
    const [task, taskSelect] = choices(this.dataset.tasks, "Task", () => this.load());
    const [model, modelSelect] = choices(this.dataset.models, "Model", () => this.load());
    Object.assign(this, { taskSelect, modelSelect });
    this.count = element("span", { className: "count", role: "status" });
    this.progress = element("progress", { ariaLabel: "Labels reviewed" });
    this.card = element("div", { className: "fix", tabIndex: -1, role: "group", ariaLabel: "Label to check" });
    this.message = element("p", { className: "note", role: "status" });
    this.append(element("div", { className: "tools" }, task, model, this.count), this.progress, this.card, this.message);
    this.addEventListener("keydown", (event) => this.key(event));
    this.load();
  }

  async load() {
    const address = `/review/${encodeURIComponent(this.modelSelect.value)}/${encodeURIComponent(this.taskSelect.value)}`;
    try {
      const response = await fetch(address);
      const { items, may_correct: allowed } = await response.json();
      Object.assign(this, { items, allowed, at: 0, total: items.length, done: [] });
    } catch {
      Object.assign(this, { items: [], at: 0, total: 0, done: [] });
      this.message.textContent = "The server is not responding. Is it still running?";
    }
    this.draw();
  }

  get item() { return this.items[this.at]; }

  draw(focus = false) {
    const reviewed = Math.min(this.at, this.total);
    this.count.textContent = this.total ? `${Math.min(reviewed + 1, this.total)} of ${this.total}` : "";
    Object.assign(this.progress, { max: Math.max(this.total, 1), value: reviewed, hidden: !this.total });
    const undo = button("Undo (U)", () => this.undo(), { className: "plain", disabled: !this.done.length });
    if (!this.item) {
      const text = this.total ? "That was the last one." : "The model agrees with every label of val and test.";
      this.card.replaceChildren(element("div", { className: "empty" }, element("strong", { textContent: "Nothing left to check" }), text), element("div", { className: "actions" }, undo));
      return;
    }
    const { place: row, given, probability, split, labels } = this.item;
    const labelButton = ({ label, name, probability: likely }, number) => button(`${number < 9 ? `${number + 1}  ` : ""}${name} ${percent(likely)}`, () => this.choose(label, name), { className: "plain label", disabled: !this.allowed });
    const first = labels.slice(0, 9).map(labelButton);
    const others = labels.slice(9);
    const select = element("select", { ariaLabel: "Another label", disabled: !this.allowed, onchange: () => select.value && this.choose(select.value, select.selectedOptions[0].textContent) },
      element("option", { value: "", textContent: "Another label…" }), ...others.map(({ label, name }) => element("option", { value: label, textContent: name })));
    this.ask = element("div", { className: "banner", role: "alertdialog", hidden: true });
    this.card.replaceChildren(
      element("img", { src: `/photo/${row}/whole`, alt: `Photograph labeled ${given}` }),
      element("div", {},
        element("h2", { textContent: `Labeled ${given}, looks like ${labels[0].name}` }),
        element("p", { className: "note", textContent: `Probability of ${given}: ${percent(probability)}; of ${labels[0].name}: ${percent(labels[0].probability)}. The photograph is in ${split}.` }),
        element("div", { className: "labels" }, ...first, ...(others.length ? [select] : [])),
        this.ask,
        element("div", { className: "actions" }, button("The label is right (K)", () => this.keep(), { className: "plain" }),
          button("Skip (S)", () => this.skip(), { className: "plain" }), undo),
        this.allowed ? "" : element("p", { className: "note", textContent: "Labels can be corrected only when the server listens on localhost." })));
    if (focus) this.card.focus();
  }

  choose(label, name) {
    if (name === this.item.given) return this.keep();
    if (this.item.split !== "test") return this.save(label, name);
    this.ask.hidden = false;
    const yes = button(`Change it to ${name}`, () => this.save(label, name), { className: "plain" });
    this.ask.replaceChildren(
      element("p", { textContent: "This photograph is in test: changing its label changes the reported scores. Change it only if the label is wrong, regardless of the prediction." }),
      yes, button("Leave it", () => { this.ask.hidden = true; this.card.focus(); }, { className: "plain" }));
    yes.focus();
    return undefined;
  }

  async send(address, body) {
    const response = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const reply = await response.json();
    if (!response.ok) throw new Error(reply.error ?? `error ${response.status}`);
    return reply;
  }

  async save(label, name) {
    try {
      const { image_path: path } = await this.send("/api/corrections", { place: this.item.place, task: this.taskSelect.value, label });
      this.message.textContent = `${path}: ${this.taskSelect.selectedOptions[0].textContent} is now ${name}, in data/corrections.csv. dvc repro applies it.`;
      this.done.push({ at: this.at, corrected: true });
      this.at += 1;
    } catch (error) {
      this.message.textContent = error.message;
    }
    this.draw(true);
  }

  keep() {
    this.done.push({ at: this.at });
    this.at += 1;
    this.message.textContent = "";
    this.draw(true);
  }

  // Move the label to the end of the queue.
  skip() {
    this.done.push({ at: this.at, skipped: true });
    this.items.push(...this.items.splice(this.at, 1));
    this.message.textContent = "It will be shown again at the end.";
    this.draw(true);
  }

  async undo() {
    const last = this.done.at(-1);
    if (!last) return;
    try {
      if (last.corrected) {
        const { image_path: path } = await this.send("/api/corrections/undo", {});
        this.message.textContent = `${path}: correction undone.`;
      }
      if (last.skipped) this.items.splice(last.at, 0, this.items.pop());
      this.done.pop();
      this.at = last.at;
    } catch (error) {
      this.message.textContent = error.message;
    }
    this.draw(true);
  }

  key(event) {
    if (event.target.closest("select, input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number(event.key) - 1, key = event.key.toLowerCase();
    const chosen = this.item?.labels[number];
    if (chosen && number < 9 && this.allowed) this.choose(chosen.label, chosen.name);
    else if (this.item && key === "k") this.keep();
    else if (this.item && key === "s") this.skip();
    else if (key === "u") this.undo();
    else return;
    event.preventDefault();
  }
}

customElements.define("vitrine-batch", Batch);
customElements.define("vitrine-labels", Labels);
