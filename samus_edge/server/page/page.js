// The page of `samus-edge serve`: prompts in, masks out. Coordinates are pixels of the frame, centres at integers.
//
// One study is open at a time, and everything known of it is in one object. Every question to the service belongs to a study and
// to a revision of a frame's prompts: an answer that comes late paints nothing of another study, and no older prompt.
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), context = canvas.getContext("2d");
const COLOURS = ["#00e5ff", "#ff80ab", "#b2ff59", "#ff8a65", "#b388ff", "#e6ee9c"]; // of lesions, by their numbers
const UNSURE = "#ffd600", LINE = "#fff59d", RIM = "rgba(0,0,0,.75)";
const FAST_MS = 120; // an answer that takes no longer can be shown under the pointer
const DRAG_PX = 5, HANDLE_PX = 9; // of the screen
const places = [...document.querySelectorAll("[data-place]")];

let study = null;
let opening = 0; // the newest; an older file that was slower is not shown
const tool = { name: "box", cross: null, corner: null };
const display = { centre: 128, width: 256, gamma: 1 }; // of the screen alone
const view = { scale: 1, x: 0, y: 0 }; // of the whole frame in the canvas; x and y in pixels of the screen

class Study {
  constructor(image, name, reopen) {
    Object.assign(this, {
      image, name, reopen, // what sends the file again when the service has forgotten it
      frame: 0, frames: new Map(), bitmaps: new Map(), past: [], future: [],
      lesions: [newLesion(1)], active: 1, pixel: null, isBusy: false, isSaved: true,
      tracked: new Map(), trackedPixel: null, trackedLesion: 1, follow: null,
    });
  }

  // Of a frame: prompts by the lesion's number, lines that were measured, and the answer to the prompts.
  at(index) {
    if (!this.frames.has(index)) {
      this.frames.set(index, { prompts: {}, lines: [], revision: 0, answer: null, hasFailed: false });
    }
    return this.frames.get(index);
  }

  get here() { return this.at(this.frame); }

  // The prompt of the lesion that is worked on.
  get prompt() { return this.here.prompts[this.active] || NO_PROMPT; }

  get lesion() { return this.lesions.find(({ id }) => id === this.active); }

  asked(entry) { return this.lesions.filter(({ id }) => isAsked(entry.prompts[id])); }
}

const NO_PROMPT = { box: null, points: [], alternative: null };
const newLesion = (id) => ({ id, name: `Lesion ${id}`, place: null, isSuggested: false });
const colourOf = (id) => COLOURS[(id - 1) % COLOURS.length];
const isAsked = (prompt) => Boolean(prompt && (prompt.box || prompt.points.length));
const hasPrompt = (entry) => Boolean(study && entry && study.asked(entry).length);
const isFresh = (entry) => Boolean(entry.answer && entry.answer.revision === entry.revision);

// --- the service -------------------------------------------------------------------------------------------------------

class ServiceError extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "The service does not answer.");
  }
  if (response.ok) return response;
  if (response.status === 401 && path !== "/v1/login") askForToken();
  throw new ServiceError(response.status, await problemOf(response));
}

async function problemOf(response) {
  try { return (await response.json()).detail; } catch { return `${response.status} ${response.statusText}`; }
}

const postJson = (path, value, options = {}) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value), ...options });

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Tries again when the service is away or busy for a moment.
async function patiently(isWanted, work) {
  for (let tries = 0; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (![0, 429, 503].includes(error.status) || tries > 3 || !isWanted()) throw error;
      say(`The service ${error.status ? "is busy" : "does not answer"}; trying again in ${2 ** tries} s…`, true);
      await pause(1000 * 2 ** tries);
      if (!isWanted()) throw error;
    }
  }
}

// And sends the file again when the service has forgotten it.
async function ask(owner, work) {
  const isWanted = () => owner === study;
  try {
    return await patiently(isWanted, () => work(owner.image.id));
  } catch (error) {
    if (error.status !== 404 || !isWanted()) throw error;
    say("The service has forgotten this image; sending it again…");
    const again = await patiently(isWanted, owner.reopen);
    if (again.file_sha256 !== owner.image.file_sha256) throw new ServiceError(404, "The file has changed. Open it again.");
    owner.image = again;
    return patiently(isWanted, () => work(again.id));
  }
}

// The token becomes a cookie that scripts cannot read and other sites cannot use; it is not kept here.
async function logIn(token) {
  await postJson("/v1/login", { token });
  $("login").hidden = true;
  $("token").value = "";
  say("");
  await listExamples();
}

function askForToken() {
  $("login").hidden = false;
  $("token").focus();
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function attempt(work) {
  try { return await work(); } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
    return null;
  }
}

// --- opening -----------------------------------------------------------------------------------------------------------

// fetch says nothing of how far an upload is.
function upload(file) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/images");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = ({ loaded, total }) =>
      say(loaded < total ? `Sending… ${Math.round((100 * loaded) / total)} %` : "Opening…");
    request.onerror = () => reject(new ServiceError(0, "The service does not answer."));
    request.onload = () => {
      let document_ = {};
      try { document_ = JSON.parse(request.responseText); } catch { /* no problem document */ }
      if (request.status === 201) resolve(document_);
      else {
        if (request.status === 401) askForToken();
        reject(new ServiceError(request.status, document_.detail || `${request.status} ${request.statusText}`));
      }
    };
    request.send(file);
  });
}

const openFile = (file) => open(file.name, () => upload(file));
const openExample = (name) =>
  open(name, async () => (await call(`/v1/images?example=${encodeURIComponent(name)}`, { method: "POST" })).json());

async function open(name, send) {
  if (!mayLose()) return;
  const number = ++opening;
  say("Opening…");
  const image = await patiently(() => number === opening, send);
  if (number !== opening) { forget(image); return; }
  close();
  study = new Study(image, name, send);
  $("empty").hidden = true;
  $("status").dataset.size = `${image.width}x${image.height}`;
  $("player").hidden = $("track").hidden = image.frames < 2;
  $("frame").max = image.frames - 1;
  for (const button of document.querySelectorAll("[data-file$='.dcm']")) button.hidden = image.kind !== "dicom";
  fillFields();
  $("source").textContent = name;
  fit();
  const owner = study;
  await showFrame(0);
  if (owner !== study) return;
  const notes = image.notes.map((note) => ` ${note.text}`).join("");
  say(`${image.width} × ${image.height} pixels` + (image.frames > 1 ? `, ${image.frames} frames.` : ".") + notes);
  if (image.box) setPrompt({ box: image.box, points: [] });
  else show();
}

function close() {
  stopPlaying();
  if (!study) return;
  if (study.follow) study.follow.abort();
  forget(study.image);
  for (const bitmap of study.bitmaps.values()) bitmap.close();
  Object.assign(tool, { cross: null, corner: null });
  study = null;
}

const forget = (image) => fetch(`/v1/images/${image.id}`, { method: "DELETE", keepalive: true }).catch(() => {});

const mayLose = () => !study || study.isSaved || confirm("What is drawn on this image is not saved. Leave it?");

async function bitmapOf(owner, index) {
  if (!owner.bitmaps.has(index)) {
    const response = await ask(owner, (id) => call(`/v1/images/${id}/frames/${index}?colour=true`));
    const bitmap = await createImageBitmap(await response.blob());
    if (owner !== study) { bitmap.close(); return null; }
    owner.bitmaps.set(index, bitmap);
    if (owner.bitmaps.size > 300) { // oldest first
      const first = owner.bitmaps.keys().next().value;
      owner.bitmaps.get(first).close();
      owner.bitmaps.delete(first);
    }
  }
  return owner.bitmaps.get(index);
}

async function showFrame(index) {
  const owner = study;
  if (!owner) return;
  owner.wanted = index;
  await bitmapOf(owner, index);
  if (owner !== study || owner.wanted !== index) return; // another study or frame in the meantime
  owner.frame = index;
  Object.assign(tool, { corner: null });
  $("frame").value = index;
  $("frame-text").textContent = `${index + 1} / ${owner.image.frames}`;
  show();
  settle(owner);
}

// --- prompts and answers -----------------------------------------------------------------------------------------------

function requestOf(owner, index) {
  const entry = owner.at(index);
  const lesions = owner.asked(entry).map(({ id, name, place }) => ({ ...entry.prompts[id], name, location: place }));
  return { frame: index, lesions, pixel_mm: owner.pixel, file_name: owner.name.slice(0, 255) };
}

// One question at a time, always for what is in view now: what was drawn in between is asked once, as it is then.
async function settle(owner) {
  if (owner.isBusy) return;
  owner.isBusy = true;
  while (owner === study) {
    const index = owner.frame, entry = owner.at(index);
    if (!hasPrompt(entry) || isFresh(entry) || entry.hasFailed) break;
    const { revision } = entry, request = requestOf(owner, index), ids = owner.asked(entry).map(({ id }) => id), begun = performance.now();
    show();
    try {
      const result = await (await ask(owner, (id) => postJson(`/v1/images/${id}/masks`, request))).json();
      if (owner !== study) break;
      if (entry.revision !== revision) continue;
      entry.answer = { revision, request, result, ids };
      const { encode, decode } = result.timings_ms, taken = performance.now() - begun;
      timed((taken - encode) / ids.length);
      const mask = result.masks[Math.max(0, ids.indexOf(owner.active))];
      say(`${Math.round(taken)} ms (encode ${encode.toFixed(0)}, decode ${decode.toFixed(0)}), ` +
        `predicted IoU ${mask.predicted_iou.toFixed(2)}`);
    } catch (error) {
      if (owner !== study) break;
      entry.hasFailed = entry.revision === revision;
      if (entry.hasFailed) say(error.message, true);
    }
  }
  owner.isBusy = false;
  if (owner === study) show();
}

const snapshot = (owner) => ({
  frame: owner.frame, prompts: owner.here.prompts, lines: owner.here.lines,
  lesions: owner.lesions, active: owner.active, pixel: owner.pixel,
});

async function restore(owner, { frame, prompts, lines, lesions, active, pixel }) {
  const entry = owner.at(frame);
  if (pixel !== owner.pixel || lesions !== owner.lesions) for (const each of owner.frames.values()) ++each.revision;
  else if (prompts !== entry.prompts) ++entry.revision;
  Object.assign(owner, { lesions, active, pixel, isSaved: false });
  Object.assign(entry, { prompts, lines, hasFailed: false });
  if (!hasPrompt(entry)) {
    entry.answer = null;
    say("");  // no longer what came of a prompt that is gone
  }
  fillFields();
  if (frame !== owner.frame) await showFrame(frame);
  show();
  settle(owner);
}

function fillFields() {
  const { pixel, lesion } = study;
  $("pixel").value = pixel === null ? "" : Number(pixel.toPrecision(4));
  $("name").value = lesion.name;
  for (const field of places) field.value = (lesion.place && lesion.place[field.dataset.place]) ?? "";
}

function change(changes) {
  if (!study) return;
  const before = snapshot(study), after = { ...before, ...changes };
  study.past.push({ before, after });
  study.future = [];
  preview.mask = null;
  return restore(study, after);
}

const setPrompt = (changes) => change({
  prompts: { ...study.here.prompts, [study.active]: { ...study.prompt, alternative: null, ...changes } },
  ...(study.lesion.isSuggested && { lesions: study.lesions.map((each) => (each.id === study.active ? newLesion(each.id) : each)) }),
});
const addPoint = (x, y, label) => setPrompt({ points: [...study.prompt.points, { x, y, label }] });
const setLesion = (changes) =>
  change({ lesions: study.lesions.map((each) => (each.id === study.active ? { ...each, ...changes } : each)) });

function setBox(x1, y1, x2, y2) {
  setPrompt({ box: [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)], points: [] });
}

function addLine(x1, y1, x2, y2) { change({ lines: [...study.here.lines, [x1, y1, x2, y2]] }); }

function clearPrompts() {
  Object.assign(tool, { corner: null });
  if (!study) return;
  const { prompts, lines } = study.here, { [study.active]: own, ...others } = prompts;
  if (tool.name === "measure" && lines.length) change({ lines: [] });
  else if (isAsked(own)) {
    change({ prompts: others, lesions: study.lesions.map((each) => (each.id === study.active ? { ...each, place: null } : each)) });
  } else draw();
}

function addLesion() {
  if (!study) return;
  const id = Math.max(...study.lesions.map((each) => each.id)) + 1;
  change({ lesions: [...study.lesions, newLesion(id)], active: id });
}

function removeLesion() {
  if (!study || study.lesions.length < 2) return;
  const lesions = study.lesions.filter(({ id }) => id !== study.active);
  change({ lesions, active: lesions[0].id });
}

function chooseLesion(id) {
  if (!study || !study.lesions.some((each) => each.id === id)) return;
  study.active = id;
  Object.assign(tool, { corner: null });
  preview.mask = null;
  fillFields();
  show();
}

// The model's own click, as a lesion that says so until somebody changes it.
async function suggest() {
  const owner = study, { frame } = owner, entry = owner.here, { revision } = entry;
  say("Looking for a lesion…");
  const { proposals, notes } = await (await ask(owner, (id) => postJson(`/v1/images/${id}/proposals`, { frame }))).json();
  if (owner !== study || frame !== owner.frame || revision !== entry.revision) return;
  const [best] = proposals;
  if (!best) { say(notes.map(({ text }) => text).join(" ")); return; }
  const isFree = !isAsked(owner.prompt), id = isFree ? owner.active : Math.max(...owner.lesions.map((each) => each.id)) + 1;
  const lesion = { ...newLesion(id), name: `Suggestion ${id}`, isSuggested: true };
  const [x, y] = best.point;
  change({
    lesions: [...owner.lesions.filter((each) => each.id !== id), lesion].sort((a, b) => a.id - b.id), active: id,
    prompts: { ...entry.prompts, [id]: { ...NO_PROMPT, points: [{ x, y, label: 1 }] } },
  });
}

// A click may mean several things: the model's single answer, then each of its three others.
function nextAlternative() {
  if (study && isAsked(study.prompt)) setPrompt({ alternative: { null: 1, 1: 2, 2: 3, 3: null }[study.prompt.alternative] });
}

function undo() {
  const action = study && study.past.pop();
  if (!action) return;
  study.future.push(action);
  attempt(() => restore(study, action.before));
}

function redo() {
  const action = study && study.future.pop();
  if (!action) return;
  study.past.push(action);
  attempt(() => restore(study, action.after));
}

function setPixel(pixel) {
  if (!study || pixel === study.pixel) return;
  const isOver = pixel !== null && study.pixel === null && study.image.has_pixel_size;
  if (isOver && !confirm(`This file says how large its pixels are. Measure with ${Number(pixel.toPrecision(4))} mm instead?`)) {
    fillFields();
    return;
  }
  change({ pixel });
}

// A ruler in the picture, with a line along it, says how large a pixel is.
function calibrate() {
  const mm = Number($("line-mm").value), line = study && study.here.lines.at(-1);
  if (!line || !(mm > 0)) { say("Measure a line of known length first, and give its length.", true); return; }
  const [x1, y1, x2, y2] = line;
  setPixel(mm / Math.hypot(x2 - x1, y2 - y1));
}

// By the size of a pixel that was given, or that the file says for where the line is.
function lengthOf([x1, y1, x2, y2]) {
  const holds = ([left, top, right, bottom]) =>
    Math.min(x1, x2) >= left - 0.5 && Math.max(x1, x2) <= right + 0.5 && Math.min(y1, y2) >= top - 0.5 && Math.max(y1, y2) <= bottom + 0.5;
  const own = study.pixel && { row: study.pixel, column: study.pixel, unit: "mm" };
  const { row, column, unit } = own || study.image.spacings.find(({ box }) => holds(box)) || { row: 1, column: 1, unit: "px" };
  return { length: Math.hypot((x2 - x1) * column, (y2 - y1) * row), unit };
}

const lengthText = (line) => { const { length, unit } = lengthOf(line); return `${length.toFixed(unit === "mm" ? 1 : 0)} ${unit}`; };

function setPlace() {
  if (!study) return;
  const said = places.filter((field) => field.value && field.validity.valid).map(({ dataset, value }) =>
    [dataset.place, dataset.place === "side" ? value : Number(value)]);
  setLesion({ place: said.length ? Object.fromEntries(said) : null });
}

// --- what a click would give, under the pointer -------------------------------------------------------------------------

const preview = { at: null, isBusy: false, mask: null };
const answers_ms = [];

function timed(milliseconds) {
  answers_ms.push(milliseconds);
  if (answers_ms.length > 9) answers_ms.shift();
  const usual = [...answers_ms].sort((a, b) => a - b)[answers_ms.length >> 1];
  preview.isFast = usual <= FAST_MS;
  $("preview-speed").textContent = `${Math.round(usual)} ms` + (preview.isFast ? "" : ": too slow here");
}

const mayPreview = () => study && preview.at && preview.isFast && $("preview").checked && !study.isBusy && !study.follow && !playing &&
  !gesture.kind && (tool.name === "add" || tool.name === "remove");

// One at a time, after all real questions, for where the pointer is now.
async function lookAhead() {
  if (preview.isBusy) return;
  preview.isBusy = true;
  while (mayPreview()) {
    const owner = study, index = owner.frame, { revision } = owner.here, { x, y, label } = preview.at, begun = performance.now();
    preview.at = null;
    const { box, points } = owner.prompt;
    if (!label && !isAsked(owner.prompt)) break;
    try {
      const body = { frame: index, lesions: [{ box, points: [...points, { x, y, label }] }], pixel_mm: owner.pixel };
      const { masks, timings_ms } = await (await postJson(`/v1/images/${owner.image.id}/masks`, body)).json();
      timed(performance.now() - begun - timings_ms.encode);
      if (owner !== study || index !== owner.frame || revision !== owner.here.revision) continue;
      preview.mask = masks[0];
      draw();
      await pause(30); // and not more often than the eye follows
    } catch { break; }
  }
  preview.isBusy = false;
}

function stopPreview() {
  preview.at = null;
  if (preview.mask) { preview.mask = null; draw(); }
}

async function follow() {
  const owner = study;
  if (owner && owner.follow) { owner.follow.abort(); return; }
  if (!owner || !owner.prompt.box) { say("Draw a box around the lesion first.", true); return; }
  stopPlaying();
  const { frame, prompt: { box }, pixel, active } = owner, controller = new AbortController();
  Object.assign(owner, { follow: controller, tracked: new Map(), trackedPixel: pixel, trackedLesion: active, isSaved: false });
  const counts = {};
  let end = "Followed";
  show();
  try {
    const body = { frame, box, pixel_mm: pixel }, signal = controller.signal;
    const response = await ask(owner, (id) => postJson(`/v1/images/${id}/track`, body, { signal }));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (owner !== study) { controller.abort(); return; }
      const lines = (rest + (value || "")).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const document_ = JSON.parse(line);
        if (document_.error) throw new Error(document_.error);
        owner.tracked.set(document_.frame, document_);
        counts[document_.state] = (counts[document_.state] || 0) + 1;
        await showFrame(document_.frame);
        if (owner !== study) { controller.abort(); return; }
        say(`Following: frame ${document_.frame + 1}, ${document_.state}`);
      }
      if (done) break;
    }
  } catch (error) {
    if (owner !== study) return;
    end = error.name === "AbortError" ? "Stopped" : `Failed (${error.message})`;
  }
  owner.follow = null;
  const summary = Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ");
  say(`${end}: ${summary || "no frame"}`, end.startsWith("Failed"));
  show();
  if (end === "Followed") await showFrame(frame);
}

// What is shown of the frame in view, masks by lesion: the answer to its prompts, or what following has found.
function shown() {
  if (!study) return { masks: new Map(), notes: [], tracked: null };
  const entry = study.here, tracked = hasPrompt(entry) && !study.follow ? null : study.tracked.get(study.frame) || null;
  if (tracked) return { masks: new Map(tracked.mask ? [[study.trackedLesion, tracked.mask]] : []), notes: [], tracked };
  if (!entry.answer) return { masks: new Map(), notes: [], tracked: null };
  const { ids, result } = entry.answer;
  return { masks: new Map(ids.map((id, index) => [id, result.masks[index]])), notes: result.notes, tracked: null };
}

// --- the picture -------------------------------------------------------------------------------------------------------

function fit() { Object.assign(view, { scale: 1, x: 0, y: 0 }); draw(); }

function placement() {
  const { width, height } = study.image;
  const scale = Math.min(canvas.width / width, canvas.height / height) * view.scale;
  return {
    scale, left: (canvas.width - width * scale) / 2 + view.x, top: (canvas.height - height * scale) / 2 + view.y,
  };
}

const onCanvas = (event) => {
  const bounds = canvas.getBoundingClientRect(), ratio = canvas.width / bounds.width;
  return [(event.clientX - bounds.left) * ratio, (event.clientY - bounds.top) * ratio];
};

function zoomAt([x, y], factor) {
  if (!study) return;
  const before = placement(), scale = Math.min(Math.max(view.scale * factor, 1), 40);
  const fx = (x - before.left) / before.scale, fy = (y - before.top) / before.scale;
  view.scale = scale;
  const after = placement();
  view.x += x - (after.left + fx * after.scale);
  view.y += y - (after.top + fy * after.scale);
  pan(0, 0);
}

function pan(dx, dy) {
  const { width, height } = study.image, { scale } = placement();
  const limit = (value, size, whole) => { const far = Math.max(0, (size - whole) / 2 + whole / 4); return Math.min(Math.max(value, -far), far); };
  view.x = view.scale === 1 ? 0 : limit(view.x + dx, width * scale, canvas.width);
  view.y = view.scale === 1 ? 0 : limit(view.y + dy, height * scale, canvas.height);
  draw();
}

// In pixels of the frame, and whether that is inside it.
function toFrame(event) {
  const { scale, left, top } = placement(), [x, y] = onCanvas(event);
  const fx = (x - left) / scale - 0.5, fy = (y - top) / scale - 0.5, { width, height } = study.image;
  const clamp = (value, size) => Math.round(10 * Math.min(Math.max(value, 0), size - 1)) / 10;
  return { x: clamp(fx, width), y: clamp(fy, height), isInside: fx >= -0.5 && fy >= -0.5 && fx < width - 0.5 && fy < height - 0.5 };
}

// With window, level and gamma, for the screen alone.
function picture() {
  const bitmap = study.bitmaps.get(study.frame), { centre, width, gamma } = display;
  if (!bitmap || (centre === 128 && width === 256 && gamma === 1)) return bitmap;
  const key = `${study.frame} ${centre} ${width} ${gamma}`;
  if (study.windowed && study.windowed.key === key) return study.windowed.canvas;
  const drawn = new OffscreenCanvas(bitmap.width, bitmap.height), brush = drawn.getContext("2d");
  brush.drawImage(bitmap, 0, 0);
  const pixels = brush.getImageData(0, 0, bitmap.width, bitmap.height), { data } = pixels;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, value) =>
    255 * Math.min(Math.max((value - centre) / width + 0.5, 0), 1) ** (1 / gamma));
  for (let i = 0; i < data.length; i += 4) for (let c = i; c < i + 3; c++) data[c] = table[data[c]];
  brush.putImageData(pixels, 0, 0);
  study.windowed = { key, canvas: drawn };
  return drawn;
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  const image = study && picture();
  if (!image) return;
  const { scale, left, top } = placement(), entry = study.here;
  context.setTransform(scale, 0, 0, scale, left, top);
  context.imageSmoothingEnabled = scale < 4 * ratio;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0);
  context.translate(0.5, 0.5); // pixel centres are at integers
  const px = ratio / scale, { masks, tracked } = shown();
  const isStale = !tracked && !isFresh(entry);
  for (const { id, name } of study.lesions) {
    const colour = tracked && tracked.state === "uncertain" ? UNSURE : colourOf(id), mask = masks.get(id);
    context.globalAlpha = isStale ? 0.35 : 1;
    if (mask) drawMask(mask, colour, px, isStale || id !== study.active);
    context.globalAlpha = 1;
    const { box: own, points } = (!tracked && entry.prompts[id]) || NO_PROMPT, isActive = id === study.active;
    const box = (isActive && gesture.box) || own, named = box || (mask && mask.box);
    if (named && study.lesions.length > 1) drawText(name, named[0], named[1] - 6 * px, colour, px);
    if (box) {
      stroke(() => context.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]), colour, px, [6 * px, 5 * px]);
      if (isActive && tool.name === "box") for (const [x, y] of cornersOf(box)) stroke(() => context.rect(x - 3 * px, y - 3 * px, 6 * px, 6 * px), colour, px, []);
    }
    for (const point of points) drawPoint(point, px);
  }
  if (preview.mask) drawOutline(preview.mask, colourOf(study.active), px, [3 * px, 4 * px]);
  for (const line of [...entry.lines, ...(gesture.line ? [gesture.line] : [])]) {
    const [x1, y1, x2, y2] = line;
    stroke(() => { context.moveTo(x1, y1); context.lineTo(x2, y2); }, LINE, px, []);
    for (const [x, y] of [[x1, y1], [x2, y2]]) stroke(() => context.arc(x, y, 4 * px, 0, 2 * Math.PI), LINE, px, []);
    drawText(lengthText(line), x2 + 8 * px, y2, LINE, px);
  }
  if (tool.corner) drawPoint({ x: tool.corner[0], y: tool.corner[1], label: 1 }, px);
  if (tool.cross && document.activeElement === canvas) {
    const [x, y] = tool.cross;
    stroke(() => {
      context.moveTo(x - 14 * px, y); context.lineTo(x + 14 * px, y);
      context.moveTo(x, y - 14 * px); context.lineTo(x, y + 14 * px);
    }, "#fff", px, []);
  }
}

function stroke(shape, colour, px, dash, wide = 1.6) {
  for (const [style, width] of [[RIM, wide + 2], [colour, wide]]) {
    context.beginPath();
    shape();
    context.setLineDash(dash);
    context.lineWidth = width * px;
    context.strokeStyle = style;
    context.stroke();
  }
}

function drawText(text, x, y, colour, px) {
  context.font = `${13 * px}px system-ui, sans-serif`;
  context.lineWidth = 3 * px;
  context.setLineDash([]);
  context.strokeStyle = RIM;
  context.fillStyle = colour;
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function drawOutline(mask, colour, px, dash) {
  const shape = () => {
    for (const polygon of mask.contours) {
      polygon.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
    }
  };
  stroke(shape, colour, px, dash, 2);
  return shape;
}

function drawMask(mask, colour, px, isPlain) {
  const shape = drawOutline(mask, colour, px, []);
  context.beginPath();
  shape();
  context.fillStyle = colour + "1f";
  context.fill("evenodd");
  const sizes = mask.measurements;
  if (!sizes || isPlain || !$("callipers").checked) return;
  for (const [diameter, tilt] of [[sizes.longest_diameter, 0], [sizes.perpendicular_diameter, Math.PI / 4]]) {
    const { start, end } = diameter;
    stroke(() => { context.moveTo(...start); context.lineTo(...end); }, colour, px, [1.5 * px, 6 * px], 1.2);
    for (const [x, y] of [start, end]) {
      stroke(() => {
        for (const angle of [tilt, tilt + Math.PI / 2]) {
          const across = 6 * px * Math.cos(angle), down = 6 * px * Math.sin(angle);
          context.moveTo(x - across, y - down);
          context.lineTo(x + across, y + down);
        }
      }, colour, px, [], 1.6);
    }
  }
}

function drawPoint({ x, y, label }, px) {
  context.beginPath();
  context.arc(x, y, 6 * px, 0, 2 * Math.PI);
  context.fillStyle = label ? "#00e676" : "#ff5252";
  context.strokeStyle = RIM;
  context.lineWidth = 2 * px;
  context.setLineDash([]);
  context.fill();
  context.stroke();
  context.beginPath(); // colour is not the only sign: plus and minus
  context.moveTo(x - 3.5 * px, y); context.lineTo(x + 3.5 * px, y);
  if (label) { context.moveTo(x, y - 3.5 * px); context.lineTo(x, y + 3.5 * px); }
  context.stroke();
}

// --- measurements and buttons ------------------------------------------------------------------------------------------

function show() {
  const { masks, notes, tracked } = shown(), entry = study && study.here;
  const isOutdated = tracked && study.trackedPixel !== study.pixel;
  const notice = tracked && tracked.state !== "tracking" ? `${tracked.state}: ${tracked.reason}` : "";
  const isStale = Boolean(entry) && !tracked && hasPrompt(entry) && !isFresh(entry);
  const phase = !isStale ? "" : entry.hasFailed ? "failed" : study.isBusy ? "working" : "stale";
  $("phase").textContent = { working: "Working…", failed: "Failed", stale: "Not of this prompt" }[phase] || "";
  $("phase").dataset.phase = phase;
  $("retry").hidden = phase !== "failed";
  $("state").hidden = !notice && !isOutdated;
  $("state").textContent = isOutdated ? "followed with another pixel size: follow again" : notice;
  $("state").classList.toggle("lost", Boolean(tracked && ["lost", "stopped"].includes(tracked.state)));
  const isCurrent = Boolean(entry) && (tracked ? !isOutdated : isFresh(entry)), mask = study && masks.get(study.active);
  const rows = isCurrent && mask ? rowsOf(mask) : [];
  if (mask && !isCurrent) rows.push(["", "of an older prompt, not shown"]);
  for (const [index, line] of entry ? entry.lines.entries() : []) rows.push([`Line ${index + 1}`, lengthText(line)]);
  if (isCurrent && mask) for (const note of notes) rows.push([note.level, note.text, "note"]);
  $("sizes").replaceChildren(...rows.flatMap(([name, value, kind = ""]) => {
    const term = document.createElement("dt"), description = document.createElement("dd");
    term.className = description.className = kind;
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
  $("undo").disabled = !study || !study.past.length;
  $("redo").disabled = !study || !study.future.length;
  $("clear").disabled = !study || !(isAsked(study.prompt) || (tool.name === "measure" && entry.lines.length));
  $("calibration").hidden = !entry || !entry.lines.length || tool.name !== "measure";
  $("suggest").disabled = !study || Boolean(study.follow);
  $("alternative").disabled = !study || !isAsked(study.prompt);
  $("alternative").firstChild.textContent = study && study.prompt.alternative ? `${study.prompt.alternative} of 3 ` : "Alternative ";
  $("add-lesion").disabled = $("name").disabled = !study;
  $("remove-lesion").disabled = !study || study.lesions.length < 2;
  $("lesions").replaceChildren(...(study ? study.lesions : []).map(({ id, name }) => {
    const button = document.createElement("button"), swatch = document.createElement("i"), size = document.createElement("small");
    const sizes = isCurrent && masks.get(id) && masks.get(id).measurements;
    swatch.style.background = colourOf(id);
    size.textContent = sizes ? `${sizes.longest_diameter.length.toFixed(sizes.unit === "mm" ? 1 : 0)} ${sizes.unit}` : "";
    button.append(swatch, name || `Lesion ${id}`, size);
    button.setAttribute("aria-pressed", String(id === study.active));
    button.addEventListener("click", () => chooseLesion(id));
    return button;
  }));
  $("track").textContent = study && study.follow ? "Stop following" : "Follow through the cine";
  for (const button of document.querySelectorAll("#save button")) button.disabled = !entry || !hasPrompt(entry) || !isFresh(entry);
  $("followed").hidden = !study || !study.tracked.size;
  for (const button of document.querySelectorAll("#followed button")) {
    button.disabled = !study || Boolean(study.follow) || study.trackedPixel !== study.pixel;
  }
  draw();
}

function rowsOf(mask) {
  const sizes = mask.measurements, rows = [];
  // It was calibrated with clicks of people, who saw a lesion there.
  const quality = study.lesion.isSuggested ? null : mask.quality;
  if (study.lesion.isSuggested) rows.push(["Suggestion", "nobody marked it: look at it"]);
  if (quality) rows.push(["Quality", `${Math.round(100 * quality.probability)} %, ${quality.state}`]);
  if (!sizes) return [...rows, ["", "empty mask"]];
  const { unit } = sizes, digits = unit === "mm" ? 1 : 0;
  const text = (value, suffix = unit) => `${value.toFixed(digits)} ${suffix}`;
  rows.push(["Longest +", text(sizes.longest_diameter.length)]);
  const within = quality && quality.longest_diameter_interval;
  if (within) rows.push(["with 90 %", `${within[0].toFixed(digits)} to ${text(within[1])}`]);
  rows.push(["Its angle", `${sizes.angle_deg.toFixed(0)}°, ${sizes.orientation}`]);
  rows.push(["Perpendicular ×", text(sizes.perpendicular_diameter.length)]);
  rows.push(["Width", text(sizes.width)], ["Height", text(sizes.height)]);
  rows.push(["Height / width", sizes.height_to_width.toFixed(2)]);
  rows.push(["Area", text(sizes.area, unit === "mm" ? "mm²" : "px")], ["Perimeter", text(sizes.perimeter)]);
  for (const field of places) {
    const value = sizes.location ? sizes.location[field.dataset.place] : null;
    const suffix = field.dataset.place.endsWith("_mm") ? " mm" : "";
    if (value !== null) rows.push([field.labels[0].firstChild.textContent.trim(), value + suffix]);
  }
  const { spacing } = sizes;
  if (spacing && unit === "mm") {
    rows.push(["Pixel", `${Number(spacing.column.toPrecision(3))} × ${Number(spacing.row.toPrecision(3))} mm, ${spacing.source}`]);
  } else rows.push(["Pixel", "size not known"]);
  if (sizes.cut_by.length) rows.push(["Cut by the frame", sizes.cut_by.join(", ")]);
  if (sizes.components > 1) rows.push(["Parts", String(sizes.components)]);
  return rows;
}

// --- saving ------------------------------------------------------------------------------------------------------------

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Named after its source: benign_80_mask.png, cine_frame12_mask.png, cine_track_masks.npz.
function fileName(owner, name, part) {
  const stem = owner.name.replace(/\.(png|jpe?g|bmp|tiff?|webp|dcm|mp4|avi|mov)$/i, "") || "image";
  return `${stem}_${part}${name}`;
}

async function save(name) {
  const owner = study, entry = owner && owner.here;
  if (!entry || !isFresh(entry)) return;
  const { request, result } = entry.answer; // what is shown, not what is being drawn
  const part = owner.image.frames > 1 ? `frame${owner.frame + 1}_` : "";
  let blob;
  if (name === "result.json") {
    const { file_bytes, file_sha256, dicom } = owner.image;
    const source = { name: owner.name, file_bytes, file_sha256, dicom };
    const lines = entry.lines.map((line) => ({ line, ...lengthOf(line) }));
    blob = new Blob([JSON.stringify({ source, request, ...result, lines }, null, 1)], { type: "application/json" });
  } else blob = await (await ask(owner, (id) => postJson(`/v1/images/${id}/${name}`, request))).blob();
  if (owner !== study) return;
  download(blob, fileName(owner, name, part));
  owner.isSaved = true;
}

async function saveFollowed(name) {
  const owner = study;
  const until = Math.max(...owner.tracked.keys()); // the service may have begun one more before it was stopped
  const blob = await (await call(`/v1/images/${owner.image.id}/track/${name}?until=${until}`)).blob();
  if (owner !== study) return;
  download(blob, fileName(owner, name, "track_"));
  owner.isSaved = true;
}

// --- playing -----------------------------------------------------------------------------------------------------------

let playing = 0;

function stopPlaying() {
  playing = 0;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

async function play() {
  if (playing) { stopPlaying(); return; }
  const owner = study;
  if (!owner || owner.image.frames < 2) return;
  const id = playing = Math.random();
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  const step = 1000 / (owner.image.frames_per_second || 20);
  for (let next = performance.now(); playing === id && owner === study; next += step) {
    if (!(await attempt(async () => { await showFrame((owner.frame + 1) % owner.image.frames); return true; }))) break;
    await pause(Math.max(0, next + step - performance.now()));
    if (performance.now() - next > 10 * step) next = performance.now(); // frames come slower than they should play
  }
  if (playing === id) stopPlaying();
}

// --- input -------------------------------------------------------------------------------------------------------------

// What a pointer is doing: "draw" a box or click, "move" or "size" a box, "pan". Two fingers pinch, and never draw.
const gesture = { kind: null, start: null, at: null, box: null, line: null, corner: null, isBeside: false };
const fingers = new Map();
const cornersOf = ([x1, y1, x2, y2]) => [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];

function choose(name) {
  tool.name = name;
  tool.corner = null;
  document.querySelector(`input[value=${name}]`).checked = true;
  stopPreview();
  show();
}

function endGesture() {
  Object.assign(gesture, { kind: null, start: null, at: null, box: null, line: null, corner: null });
  draw();
}

// What of the drawn box is under the pointer: a corner, its edge, or nothing.
function grip(event) {
  const { box } = study.prompt;
  if (!box || tool.name !== "box" || event.shiftKey || event.button === 2) return null;
  const ratio = canvas.width / canvas.getBoundingClientRect().width;
  const { scale, left, top } = placement(), [px, py] = onCanvas(event);
  const [x, y] = [(px - left) / scale - 0.5, (py - top) / scale - 0.5], near = (HANDLE_PX * ratio) / scale;
  const corner = cornersOf(box).findIndex(([cx, cy]) => Math.hypot(x - cx, y - cy) < near);
  if (corner >= 0) return corner;
  const [x1, y1, x2, y2] = box;
  const isInX = x > x1 - near / 2 && x < x2 + near / 2, isInY = y > y1 - near / 2 && y < y2 + near / 2;
  const isEdge = (isInY && Math.min(Math.abs(x - x1), Math.abs(x - x2)) < near / 2) ||
    (isInX && Math.min(Math.abs(y - y1), Math.abs(y - y2)) < near / 2);
  return isEdge ? "edge" : null;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!study) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  tool.cross = null;
  stopPreview();
  if (event.pointerType === "touch") fingers.set(event.pointerId, onCanvas(event));
  if (fingers.size > 1) { endGesture(); gesture.kind = "pinch"; return; }
  if (gesture.kind) return; // another button while one is down
  if (event.button === 1) { Object.assign(gesture, { kind: "pan", at: onCanvas(event) }); return; }
  const at = toFrame(event);
  if ((event.button !== 0 && event.button !== 2) || !at.isInside) return;
  const held = grip(event);
  Object.assign(gesture, {
    kind: held === null ? "draw" : held === "edge" ? "move" : "size",
    start: at, at: onCanvas(event), corner: held, isBeside: event.shiftKey || event.button === 2 || tool.name === "remove",
  });
});

canvas.addEventListener("pointermove", (event) => {
  if (!study) return;
  if (gesture.kind === "pinch" && fingers.has(event.pointerId)) { pinch(event); return; }
  if (!gesture.kind) {
    canvas.style.cursor = { edge: "move", null: "" }[grip(event)] ?? "nwse-resize";
    const { x, y, isInside } = toFrame(event);
    if (!isInside || event.pointerType !== "mouse") { stopPreview(); return; }
    preview.at = { x, y, label: event.shiftKey || tool.name === "remove" ? 0 : 1 };
    lookAhead();
    return;
  }
  const [x, y] = onCanvas(event), [x0, y0] = gesture.at;
  if (gesture.kind === "pan") { gesture.at = [x, y]; pan(x - x0, y - y0); return; }
  if (gesture.kind === "draw" && ((tool.name !== "box" && tool.name !== "measure") || gesture.isBeside)) return;
  const ratio = canvas.width / canvas.getBoundingClientRect().width;
  if (!gesture.box && !gesture.line && Math.hypot(x - x0, y - y0) < DRAG_PX * ratio) return;
  const to = toFrame(event), { start } = gesture, { box } = study.prompt;
  if (tool.name === "measure") { gesture.line = [start.x, start.y, to.x, to.y]; draw(); return; }
  if (gesture.kind === "move") {
    const { width, height } = study.image;
    const dx = Math.min(Math.max(to.x - start.x, -box[0]), width - 1 - box[2]);
    const dy = Math.min(Math.max(to.y - start.y, -box[1]), height - 1 - box[3]);
    gesture.box = [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  } else {
    const [fx, fy] = gesture.kind === "size" ? cornersOf(box)[(gesture.corner + 2) % 4] : [start.x, start.y];
    gesture.box = [Math.min(fx, to.x), Math.min(fy, to.y), Math.max(fx, to.x), Math.max(fy, to.y)];
  }
  draw();
});

function pinch(event) {
  const before = [...fingers.values()];
  fingers.set(event.pointerId, onCanvas(event));
  const after = [...fingers.values()];
  if (before.length < 2) return;
  const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], wide = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  const [m0, m1] = [middle(before), middle(after)];
  zoomAt(m1, wide(after) / Math.max(wide(before), 1));
  pan(m1[0] - m0[0], m1[1] - m0[1]);
}

canvas.addEventListener("pointerup", (event) => {
  fingers.delete(event.pointerId);
  if (gesture.kind === "pinch") { if (!fingers.size) endGesture(); return; }
  const { kind, start, box, line, isBeside } = gesture;
  endGesture();
  if (!study || !kind || kind === "pan") return;
  if (tool.name === "measure") { if (line) addLine(...line); return; }
  if (box && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) {
    if (kind === "draw") setBox(...box);
    else setPrompt({ box: box.map((value) => Math.round(10 * value) / 10) });
  } else if (!box) addPoint(start.x, start.y, isBeside ? 0 : 1);
});
canvas.addEventListener("pointercancel", (event) => { fingers.delete(event.pointerId); if (!fingers.size) endGesture(); });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("auxclick", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  if (!study) return;
  event.preventDefault();
  zoomAt(onCanvas(event), Math.exp(-event.deltaY / (event.deltaMode ? 15 : 400)));
}, { passive: false });
canvas.addEventListener("pointerleave", stopPreview);
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

canvas.addEventListener("keydown", (event) => {
  if (!study || event.ctrlKey || event.metaKey || event.altKey) return;
  const { width, height } = study.image, far = event.shiftKey ? 10 : 1;
  const steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
  if (steps[event.key]) {
    const [x, y] = tool.cross || [width / 2, height / 2];
    tool.cross = [
      Math.min(Math.max(Math.round(x + steps[event.key][0]), 0), width - 1),
      Math.min(Math.max(Math.round(y + steps[event.key][1]), 0), height - 1),
    ];
    say(`x ${tool.cross[0]}, y ${tool.cross[1]}`);
    draw();
  } else if (event.key === "Enter" && tool.cross) {
    const [x, y] = tool.cross;
    if (tool.name === "add" || tool.name === "remove") addPoint(x, y, tool.name === "add" && !event.shiftKey ? 1 : 0);
    else if (!tool.corner) { tool.corner = [x, y]; draw(); }
    else if (tool.name === "measure") {
      const from = tool.corner;
      tool.corner = null;
      if (x !== from[0] || y !== from[1]) addLine(...from, x, y);
    } else if (Math.abs(x - tool.corner[0]) > 2 && Math.abs(y - tool.corner[1]) > 2) {
      const [x1, y1] = tool.corner;
      tool.corner = null;
      setBox(x1, y1, x, y);
    }
  } else return;
  event.preventDefault();
});

const centre = () => [canvas.width / 2, canvas.height / 2];
const step = (by) => study && study.frame + by >= 0 && study.frame + by < study.image.frames && attempt(() => showFrame(study.frame + by));
const KEYS = {
  o: () => $("file").click(), b: () => choose("box"), a: () => choose("add"), r: () => choose("remove"), m: () => choose("measure"), z: undo, y: redo,
  l: addLesion, n: nextAlternative, s: () => { if (study && !$("suggest").hidden) attempt(suggest); },
  t: () => attempt(follow), c: () => { $("callipers").checked = !$("callipers").checked; draw(); }, f: fit,
  "+": () => zoomAt(centre(), 1.25), "-": () => zoomAt(centre(), 0.8), "=": () => zoomAt(centre(), 1.25),
  Escape: clearPrompts, Delete: clearPrompts, ",": () => step(-1), ".": () => step(1), " ": play,
};

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=number], input[type=password], input[type=text], select")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
    event.preventDefault();
    (key === "y" || event.shiftKey ? redo : undo)();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(key) && study && study.lesions[key - 1]) { chooseLesion(study.lesions[key - 1].id); return; }
  if (!KEYS[key]) return;
  if (key === " " && event.target.matches("button, summary, label, input")) return;
  event.preventDefault();
  KEYS[key]();
});

$("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (file) attempt(() => openFile(file));
});
$("example").addEventListener("change", (event) => {
  const name = event.target.value;
  if (name) attempt(() => openExample(name));
});
for (const radio of document.querySelectorAll("input[name=tool]")) radio.addEventListener("change", () => choose(radio.value));
for (const button of document.querySelectorAll("#save button"))
  button.addEventListener("click", () => attempt(() => save(button.dataset.file)));
for (const button of document.querySelectorAll("#followed button"))
  button.addEventListener("click", () => attempt(() => saveFollowed(button.dataset.file)));
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
$("clear").addEventListener("click", clearPrompts);
$("retry").addEventListener("click", () => { study.here.hasFailed = false; settle(study); });
$("suggest").addEventListener("click", () => attempt(suggest));
$("track").addEventListener("click", () => attempt(follow));
$("play").addEventListener("click", play);
$("fit").addEventListener("click", fit);
$("callipers").addEventListener("change", draw);
$("preview").addEventListener("change", stopPreview);
$("pixel").addEventListener("change", ({ target }) => setPixel(Number(target.value) > 0 ? Number(target.value) : null));
$("calibrate").addEventListener("click", calibrate);
$("name").addEventListener("change", ({ target }) => { if (study) setLesion({ name: target.value.trim() }); });
$("add-lesion").addEventListener("click", addLesion);
$("remove-lesion").addEventListener("click", removeLesion);
$("alternative").addEventListener("click", nextAlternative);
for (const field of places) field.addEventListener("change", setPlace);
for (const field of document.querySelectorAll("[data-display]"))
  field.addEventListener("input", () => { display[field.dataset.display] = Number(field.value); draw(); });
$("as-stored").addEventListener("click", () => {
  Object.assign(display, { centre: 128, width: 256, gamma: 1 });
  for (const field of document.querySelectorAll("[data-display]")) field.value = display[field.dataset.display];
  draw();
});
$("frame").addEventListener("input", (event) => { stopPlaying(); attempt(() => showFrame(Number(event.target.value))); });
const stage = $("stage");
for (const name of ["dragenter", "dragover"])
  stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.add("over"); });
for (const name of ["dragleave", "drop"]) stage.addEventListener(name, () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) attempt(() => openFile(file));
});
new ResizeObserver(draw).observe(canvas);

addEventListener("beforeunload", (event) => { if (study && !study.isSaved) event.preventDefault(); });
// What nobody looks at any more is forgotten at once. A page that the browser brings back starts anew.
addEventListener("pagehide", () => { if (study) forget(study.image); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => logIn($("token").value));
});

async function listExamples() {
  const [examples, info] = await Promise.all(["/v1/examples", "/v1/info"].map(async (path) => (await call(path)).json()));
  $("suggest").hidden = !info.can_propose;
  $("example").length = 1;
  for (const { name, width, height } of examples) {
    const option = document.createElement("option");
    option.value = name;
    option.textContent = `${name.replace(/\.\w+$/, "").replace("_", " ")} (${width} × ${height})`;
    $("example").append(option);
  }
}

attempt(async () => {
  // After "#" it is not sent and stands in no log; after "?" it did, and links of before still work.
  const given = new URLSearchParams(location.hash.slice(1)).get("token") || new URLSearchParams(location.search).get("token");
  if (!given) return listExamples();
  history.replaceState(null, "", location.pathname); // out of the address bar and its history
  try { await logIn(given); } catch (error) { askForToken(); throw error; }
});
