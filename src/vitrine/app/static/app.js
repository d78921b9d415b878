import * as ort from "./vendor/ort.wasm.min.mjs";
import { fit } from "./resize.js";

const SHOWN = 24, FLOOR = 1e-3;
const $ = (id) => document.getElementById(id);
const percent = (p) => `${Math.round(100 * p)} %`;
let about, photos, numLabels, probs, embeddings, lengths, session, query = null, shown = SHOWN, latest = 0;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// -- predicting ------------------------------------------------------------------------------------------------------

async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const rgb = new Uint8Array(bitmap.width * bitmap.height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from]; rgb[to++] = data[from + 1]; rgb[to++] = data[from + 2];
  }
  return fit(rgb, bitmap.width, bitmap.height, about.decoding.photo_size_px);
}

// blob -> { probs: { task: [probability of every label] }, embedding, refused: whether it is none of the classes }
export async function predict(blob) {
  const side = about.decoding.photo_size_px;
  const outputs = await session.run({ photos: new ort.Tensor("uint8", await decode(blob), [1, side, side, 3]) });
  const found = about.label_space.map(({ task }) => [task, Array.from(outputs[`probs_${task}`].data)]);
  const refused = Boolean(about.novelty) && outputs.novelty.data[0] > about.novelty.threshold;
  return { probs: Object.fromEntries(found), embedding: outputs.embedding.data, refused };
}

function answer(found) {
  const list = element("dl");
  for (const { task, labels } of about.label_space) {
    const order = labels.map((_, code) => code).sort((a, b) => found.probs[task][b] - found.probs[task][a]).slice(0, 3);
    const threshold = about.sure_thresholds[task], best = found.probs[task][order[0]];
    const sure = threshold !== null && best >= threshold && !found.refused;
    const word = threshold === null ? "not reliable on this data" : sure ? "confident" : "unsure";
    const bars = order.map((code, rank) => element("div", { className: rank ? "bar" : "bar first" },
      element("span", {}, name(labels[code])),
      element("meter", { min: 0, max: 1, value: found.probs[task][code], ariaLabel: name(labels[code]) }),
      element("span", {}, percent(found.probs[task][code]))));
    list.append(element("div", {},
      element("dt", {}, name(task), element("em", { className: sure ? "sure" : "" }, word)), element("dd", {}, ...bars)));
  }
  $("answer").replaceChildren(...(found.refused ? [refusal(found)] : []), list);
}

function refusal(found) {
  const { labels } = about.label_space.find(({ task }) => task === "class");
  const nearest = labels[found.probs.class.indexOf(Math.max(...found.probs.class))];
  return element("p", { className: "refused" }, element("strong", {}, "None of these"),
    `Looks like none of the ${labels.length} classes; nearest: ${name(nearest).toLowerCase()}.`);
}

const name = (label) => about.display_names[label] ?? label;

function present(found, address) {
  if ($("preview").src.startsWith("blob:")) URL.revokeObjectURL($("preview").src);
  $("preview").src = address;
  $("preview").hidden = false;
  $("hint").hidden = true;
  $("status").textContent = "";
  answer(found);
  query = found.embedding;
  shown = SHOWN;
  show();
}

// A photograph may be chosen while the model is loading. Of several, the last one is presented.
async function identify(blob) {
  const turn = ++latest;
  if (!(await ready)) return;
  $("status").textContent = "Identifying…";
  try {
    const found = await predict(blob);
    if (turn === latest) present(found, URL.createObjectURL(blob));
  } catch (error) {
    if (turn !== latest) return;
    console.error(error);
    $("status").textContent = "Can't read this image. Use a JPEG, PNG or WebP file.";
  }
}

// What was predicted when the gallery was made.
function stored(row) {
  let from = row * numLabels;
  const found = about.label_space.map(({ task, labels }) =>
    [task, Array.from(probs.subarray(from, (from += labels.length)), (byte) => byte / 255)]);
  return { probs: Object.fromEntries(found), embedding: embeddings.subarray(row * about.num_features, (row + 1) * about.num_features) };
}

// -- finding ---------------------------------------------------------------------------------------------------------

function scores(chosen) {
  const width = about.num_features, length = query ? Math.hypot(...query) : 1;
  return photos.map((_, row) => {
    let score = 1;
    for (const codes of chosen) {
      let sum = 0;
      for (const code of codes) sum += probs[row * numLabels + code] / 255;
      score *= sum + FLOOR;
    }
    let cosine = null;
    if (query) {
      cosine = 0;
      for (let i = 0; i < width; i++) cosine += query[i] * embeddings[row * width + i];
      cosine /= lengths[row] * length;
      score *= Math.max(cosine, 0) + FLOOR;
    }
    return { row, score, cosine };
  });
}

function show() {
  const boxes = [...document.querySelectorAll("#labels fieldset")];
  const chosen = boxes.map((box) => [...box.querySelectorAll(":checked")].map((input) => Number(input.value)));
  const asked = chosen.filter((codes) => codes.length);
  let hits = scores(asked);
  if (asked.length || query) hits.sort((a, b) => b.score - a.score || a.row - b.row);
  const what = [query ? "most similar first" : "", asked.length ? "best match first" : ""].filter(Boolean).join(", ");
  $("found").textContent = `${photos.length} photographs${what ? `, ${what}` : ""}`;
  $("gallery").replaceChildren(...hits.slice(0, shown).map(({ row, cosine }) => {
    const photo = photos[row];
    const button = element("button", { type: "button", title: photo.path },
      element("img", { src: photo.thumbnail, alt: "", loading: "lazy" }),
      element("span", {}, photo.caption, element("small", {}, cosine === null ? "" : `similarity ${percent(Math.max(cosine, 0))}`)));
    button.addEventListener("click", () => { present(stored(row), photo.thumbnail); scrollTo({ top: 0 }); });
    return element("li", {}, button);
  }));
  $("more").hidden = shown >= hits.length;
}

function layLabels() {
  let code = 0;
  for (const { task, labels } of about.label_space) {
    const chips = labels.map((label) => element("label", { className: "chip" },
      element("input", { type: "checkbox", value: code++ }), name(label)));
    $("labels").append(element("fieldset", {}, element("legend", {}, name(task)), ...chips));
  }
  $("labels").addEventListener("change", () => { shown = SHOWN; show(); });
}

// -- starting --------------------------------------------------------------------------------------------------------

async function start() {
  const [gallery, bytes] = await Promise.all([
    fetch("gallery.json").then((r) => r.json()), fetch("gallery.bin").then((r) => r.arrayBuffer())]);
  ({ about, photos } = gallery);
  numLabels = about.label_space.reduce((total, { labels }) => total + labels.length, 0);
  probs = new Uint8Array(bytes, 0, photos.length * numLabels);
  embeddings = new Int8Array(bytes, photos.length * numLabels);
  lengths = photos.map((_, row) => Math.hypot(...embeddings.subarray(row * about.num_features, (row + 1) * about.num_features)) || 1);
  layLabels();
  show();
  ort.env.wasm.wasmPaths = new URL("vendor/", location.href).href;
  ort.env.wasm.numThreads = 1; // more would need headers that static hosts do not send
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  $("status").textContent = "";
  document.body.dataset.ready = "yes";
  if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js");
}

$("more").addEventListener("click", () => { shown += SHOWN; show(); });
for (const type of ["dragover", "dragleave", "drop"])
  $("drop").addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files[0]) identify(event.dataTransfer.files[0]);
  });
const ready = start().then(() => true, (error) => {
  console.error(error);
  $("status").textContent = "The model could not be loaded. Reload the page.";
  return false;
});
const identifyChosen = () => $("file").files[0] && identify($("file").files[0]);
$("file").addEventListener("change", identifyChosen);
identifyChosen(); // chosen before this script ran
