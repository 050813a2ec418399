// The page of `samus-edge serve`: prompts in, masks out. Coordinates are pixels of the frame, centres at integers.
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), context = canvas.getContext("2d");
const LESION = "#00e5ff", UNSURE = "#ffd600", RIM = "rgba(0,0,0,.75)";
const state = {
  image: null, // as the service describes it
  bitmaps: new Map(), // by frame
  frame: 0,
  box: null, points: [], history: [],
  drag: null, // a box that is being drawn
  cross: null, // of the keyboard
  corner: null,
  result: null, // of the service, for the frame in view
  tracked: new Map(), // by frame
  tool: "box",
  playing: 0,
  request: 0, // the newest; answers to older ones are dropped
};

// --- the service -------------------------------------------------------------------------------------------------------

async function call(path, options = {}) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  if (response.status === 401 && path !== "/v1/login") askForToken();
  let text = `${response.status} ${response.statusText}`;
  try { text = (await response.json()).detail || text; } catch { /* no problem document */ }
  throw new Error(text);
}

const postJson = (path, value) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });

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
  try { return await work(); } catch (error) { say(error.message, true); return null; }
}

async function openImage(body, query = "") {
  say("Opening…");
  stopPlaying();
  const old = state.image;
  const response = await call(`/v1/images${query}`, {
    method: "POST", body, headers: { "Content-Type": "application/octet-stream" },
  });
  const image = await response.json();
  if (old) call(`/v1/images/${old.id}`, { method: "DELETE" }).catch(() => {});
  for (const bitmap of state.bitmaps.values()) bitmap.close();
  Object.assign(state, { image, bitmaps: new Map(), tracked: new Map(), frame: 0, cross: null });
  $("empty").hidden = true;
  $("status").dataset.size = `${image.width}x${image.height}`;
  $("player").hidden = image.frames < 2;
  $("track").hidden = image.frames < 2;
  $("frame").max = image.frames - 1;
  document.querySelector('[data-file="segmentation.dcm"]').hidden = image.kind !== "dicom";
  clearPrompts();
  await showFrame(0);
  say(`${image.width} × ${image.height} pixels` + (image.frames > 1 ? `, ${image.frames} frames` : ""));
  if (image.box) { remember(); state.box = image.box; await predict(); }
}

async function bitmapOf(index) {
  if (!state.bitmaps.has(index)) {
    const response = await call(`/v1/images/${state.image.id}/frames/${index}`);
    state.bitmaps.set(index, await createImageBitmap(await response.blob()));
    if (state.bitmaps.size > 300) { // oldest first
      const first = state.bitmaps.keys().next().value;
      state.bitmaps.get(first).close();
      state.bitmaps.delete(first);
    }
  }
  return state.bitmaps.get(index);
}

async function showFrame(index) {
  if (!state.image) return;
  await bitmapOf(index);
  if (index !== state.frame) clearPrompts(false);
  state.frame = index;
  $("frame").value = index;
  $("frame-text").textContent = `${index + 1} / ${state.image.frames}`;
  const tracked = state.tracked.get(index);
  if (tracked) state.result = tracked.mask ? { frame: index, mask: tracked.mask } : null;
  showResult();
  draw();
}

const places = [...document.querySelectorAll("[data-place]")];

function prompt() {
  const pixel = Number($("pixel").value);
  const said = places.filter((field) => field.value).map(({ dataset, value }) =>
    [dataset.place, dataset.place === "side" ? value : Number(value)]);
  return {
    frame: state.frame, box: state.box, points: state.points, pixel_mm: pixel > 0 ? pixel : null,
    location: said.length ? Object.fromEntries(said) : null,
  };
}

const hasPrompt = () => Boolean(state.image && (state.box || state.points.length));

async function predict() {
  if (!hasPrompt()) { state.result = null; showResult(); draw(); return; }
  const number = ++state.request, begun = performance.now();
  await attempt(async () => {
    const response = await postJson(`/v1/images/${state.image.id}/masks`, prompt());
    const result = await response.json();
    if (number !== state.request) return;
    state.result = result;
    const times = result.timings_ms;
    say(`${Math.round(performance.now() - begun)} ms (encode ${times.encode.toFixed(0)}, decode ${times.decode.toFixed(0)}), ` +
      `predicted IoU ${result.mask.predicted_iou.toFixed(2)}`);
  });
  showResult();
  draw();
}

async function track() {
  if (!state.image || !state.box) { say("Draw a box around the lesion first.", true); return; }
  stopPlaying();
  const { frame, box, pixel_mm } = prompt();
  await attempt(async () => {
    const response = await postJson(`/v1/images/${state.image.id}/track`, { frame, box, pixel_mm });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", counts = {};
    for (;;) {
      const { value, done } = await reader.read();
      rest += value || "";
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const document_ = JSON.parse(line);
        if (document_.error) throw new Error(document_.error);
        state.tracked.set(document_.frame, document_);
        counts[document_.state] = (counts[document_.state] || 0) + 1;
        await showFrame(document_.frame);
        say(`Following: frame ${document_.frame + 1}, ${document_.state}`);
      }
      if (done) break;
    }
    say("Followed: " + Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", "));
    await showFrame(frame);
  });
}

// --- prompts -----------------------------------------------------------------------------------------------------------

function remember() { state.history.push({ box: state.box, points: [...state.points] }); }

function addPoint(x, y, label) {
  remember();
  state.points.push({ x, y, label });
  predict();
}

function setBox(x1, y1, x2, y2) {
  const box = [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
  remember();
  state.box = box;
  state.points = [];
  predict();
}

function undo() {
  const before = state.history.pop();
  if (before) { Object.assign(state, before); predict(); }
}

function clearPrompts(drawNow = true) {
  ++state.request;
  Object.assign(state, { box: null, points: [], history: [], result: null, drag: null, corner: null });
  if (!drawNow) return;
  for (const field of places) field.value = ""; // those of one lesion
  showResult();
  draw();
}

// --- the picture -------------------------------------------------------------------------------------------------------

function placement() {
  const { width, height } = state.image;
  const scale = Math.min(canvas.width / width, canvas.height / height);
  return { scale, left: (canvas.width - width * scale) / 2, top: (canvas.height - height * scale) / 2 };
}

function toFrame(event) {
  const { scale, left, top } = placement(), bounds = canvas.getBoundingClientRect();
  const ratio = canvas.width / bounds.width;
  const x = ((event.clientX - bounds.left) * ratio - left) / scale - 0.5;
  const y = ((event.clientY - bounds.top) * ratio - top) / scale - 0.5;
  const clamp = (value, size) => Math.round(10 * Math.min(Math.max(value, 0), size - 1)) / 10;
  return [clamp(x, state.image.width), clamp(y, state.image.height)];
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  const bitmap = state.image && state.bitmaps.get(state.frame);
  if (!bitmap) return;
  const { scale, left, top } = placement();
  context.setTransform(scale, 0, 0, scale, left, top);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0);
  context.translate(0.5, 0.5); // pixel centres are at integers
  const px = ratio / scale;
  const tracked = state.tracked.get(state.frame);
  const colour = tracked && tracked.state === "uncertain" && !state.box ? UNSURE : LESION;
  if (state.result) drawMask(state.result.mask, colour, px);
  const box = state.drag || state.box;
  if (box) stroke(() => context.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]), colour, px, [6 * px, 5 * px]);
  for (const point of state.points) drawPoint(point, px);
  if (state.corner) drawPoint({ x: state.corner[0], y: state.corner[1], label: 1 }, px);
  if (state.cross && document.activeElement === canvas) {
    const [x, y] = state.cross;
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

function drawMask(mask, colour, px) {
  const shape = () => {
    for (const polygon of mask.contours) {
      polygon.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
    }
  };
  context.beginPath();
  shape();
  context.fillStyle = colour + "1f";
  context.fill("evenodd");
  stroke(shape, colour, px, [], 2);
  const sizes = mask.measurements;
  if (!sizes || !$("callipers").checked) return;
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

function showResult() {
  const sizes = state.result && state.result.mask.measurements;
  const tracked = state.tracked.get(state.frame);
  const notice = tracked && tracked.state !== "tracking" && !state.box ? tracked : null;
  $("state").hidden = !notice;
  if (notice) {
    $("state").textContent = `${notice.state}: ${notice.reason}`;
    $("state").classList.toggle("lost", notice.state === "lost" || notice.state === "stopped");
  }
  const rows = [];
  if (sizes) {
    const { unit } = sizes, digits = unit === "mm" ? 1 : 0;
    const text = (value, suffix = unit) => `${value.toFixed(digits)} ${suffix}`;
    rows.push(["Longest +", text(sizes.longest_diameter.length)]);
    rows.push(["Its angle", `${sizes.angle_deg.toFixed(0)}°, ${sizes.orientation}`]);
    rows.push(["Perpendicular ×", text(sizes.perpendicular_diameter.length)]);
    rows.push(["Width", text(sizes.width)], ["Height", text(sizes.height)]);
    rows.push(["Height / width", sizes.height_to_width.toFixed(2)]);
    rows.push(["Area", text(sizes.area, unit === "mm" ? "mm²" : "px")], ["Perimeter", text(sizes.perimeter)]);
    for (const field of places) {
      const value = sizes.location ? sizes.location[field.dataset.place] : null;
      const unit = field.dataset.place.endsWith("_mm") ? " mm" : "";
      if (value !== null) rows.push([field.labels[0].firstChild.textContent.trim(), value + unit]);
    }
    if (unit === "px") rows.push(["", "pixel size not known"]);
    if (sizes.cut_by.length) rows.push(["Cut by the frame", sizes.cut_by.join(", ")]);
    if (sizes.components > 1) rows.push(["Parts", String(sizes.components)]);
  } else if (state.result) rows.push(["", "empty mask"]);
  for (const note of (state.result && state.result.notes) || []) rows.push([note.level, note.text]);
  $("sizes").replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt"), description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
  $("undo").disabled = !state.history.length;
  $("clear").disabled = !hasPrompt();
  for (const button of document.querySelectorAll("#save button")) button.disabled = !hasPrompt() || !state.result;
}

// --- saving ------------------------------------------------------------------------------------------------------------

async function save(name) {
  if (!hasPrompt()) return;
  const blob = name === "result.json"
    ? new Blob([JSON.stringify({ ...state.result, tracked: [...state.tracked.values()] }, null, 1)], { type: "application/json" })
    : await (await postJson(`/v1/images/${state.image.id}/${name}`, prompt())).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- playing -----------------------------------------------------------------------------------------------------------

function stopPlaying() {
  state.playing = 0;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

async function play() {
  if (state.playing) { stopPlaying(); return; }
  if (!state.image || state.image.frames < 2) return;
  const id = state.playing = Math.random();
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  const step = 1000 / (state.image.frames_per_second || 20);
  for (let next = performance.now(); state.playing === id; next += step) {
    if (!(await attempt(async () => { await showFrame((state.frame + 1) % state.image.frames); return true; }))) break;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, next + step - performance.now())));
    if (performance.now() - next > 10 * step) next = performance.now(); // frames come slower than they should play
  }
  if (state.playing === id) stopPlaying();
}

// --- input -------------------------------------------------------------------------------------------------------------

function choose(tool) {
  state.tool = tool;
  document.querySelector(`input[value=${tool}]`).checked = true;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.image || event.button > 2) return;
  canvas.focus({ preventScroll: true });
  state.cross = null;
  canvas.setPointerCapture(event.pointerId);
  state.start = toFrame(event);
  event.preventDefault();
});
canvas.addEventListener("pointermove", (event) => {
  if (!state.start || state.tool !== "box" || event.shiftKey || event.buttons === 2) return;
  const [x, y] = toFrame(event), [x1, y1] = state.start;
  state.drag = [Math.min(x, x1), Math.min(y, y1), Math.max(x, x1), Math.max(y, y1)];
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (!state.start) return;
  const [x, y] = toFrame(event), [x1, y1] = state.start;
  const isBeside = event.shiftKey || event.button === 2 || state.tool === "remove";
  state.start = state.drag = null;
  if (state.tool === "box" && !isBeside && Math.abs(x - x1) >= 3 && Math.abs(y - y1) >= 3) setBox(x1, y1, x, y);
  else addPoint(x, y, isBeside ? 0 : 1);
});
canvas.addEventListener("pointercancel", () => { state.start = state.drag = null; draw(); });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

canvas.addEventListener("keydown", (event) => {
  if (!state.image) return;
  const { width, height } = state.image, far = event.shiftKey ? 10 : 1;
  const steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
  if (steps[event.key]) {
    const [x, y] = state.cross || [width / 2, height / 2];
    state.cross = [
      Math.min(Math.max(Math.round(x + steps[event.key][0]), 0), width - 1),
      Math.min(Math.max(Math.round(y + steps[event.key][1]), 0), height - 1),
    ];
    say(`x ${state.cross[0]}, y ${state.cross[1]}`);
    draw();
  } else if (event.key === "Enter" && state.cross) {
    const [x, y] = state.cross;
    if (state.tool !== "box") addPoint(x, y, state.tool === "add" && !event.shiftKey ? 1 : 0);
    else if (!state.corner) { state.corner = [x, y]; draw(); }
    else if (Math.abs(x - state.corner[0]) > 2 && Math.abs(y - state.corner[1]) > 2) {
      const [x1, y1] = state.corner;
      state.corner = null;
      setBox(x1, y1, x, y);
    }
  } else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number], select")) return;
  const keys = {
    b: () => choose("box"), a: () => choose("add"), r: () => choose("remove"), z: undo, t: track,
    c: () => { $("callipers").checked = !$("callipers").checked; draw(); },
    Escape: () => clearPrompts(), Delete: () => clearPrompts(),
    ",": () => state.frame > 0 && attempt(() => showFrame(state.frame - 1)),
    ".": () => state.image && state.frame + 1 < state.image.frames && attempt(() => showFrame(state.frame + 1)),
    " ": () => event.target.matches("button, summary") || play(),
  };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!keys[key] || (key === " " && event.target.matches("button, summary, label"))) return;
  event.preventDefault();
  keys[key]();
});

$("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (file) attempt(() => openImage(file));
});
$("example").addEventListener("change", (event) => {
  if (event.target.value) attempt(() => openImage(null, `?example=${encodeURIComponent(event.target.value)}`));
});
for (const radio of document.querySelectorAll("input[name=tool]")) radio.addEventListener("change", () => choose(radio.value));
for (const button of document.querySelectorAll("#save button"))
  button.addEventListener("click", () => attempt(() => save(button.dataset.file)));
$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", () => clearPrompts());
$("track").addEventListener("click", track);
$("play").addEventListener("click", play);
$("callipers").addEventListener("change", draw);
for (const field of [$("pixel"), ...places]) field.addEventListener("change", predict);
$("frame").addEventListener("input", (event) => { stopPlaying(); attempt(() => showFrame(Number(event.target.value))); });
const stage = $("stage");
for (const name of ["dragenter", "dragover"])
  stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.add("over"); });
for (const name of ["dragleave", "drop"]) stage.addEventListener(name, () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) attempt(() => openImage(file));
});
new ResizeObserver(draw).observe(canvas);

// What nobody looks at any more is forgotten at once. A page that the browser brings back starts anew.
addEventListener("pagehide", () => {
  if (state.image) fetch(`/v1/images/${state.image.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
});
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => logIn($("token").value));
});

async function listExamples() {
  const examples = await (await call("/v1/examples")).json();
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
