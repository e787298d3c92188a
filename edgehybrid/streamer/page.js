"use strict";
// One picture at a time: the page asks for the next when it has drawn the last, so a slow page skips instead of lagging.
const POINTS = 240;
const $ = (id) => document.getElementById(id);
const ages = [], inferences = [];
let socket = null, paused = false, facts = null, state = null, shown = null, retry = 500, choosing = null;

function connect() {
  socket = new WebSocket(new URL("/view", location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retry = 500; say({ ready: true }); };
  socket.onmessage = async ({ data }) => {
    const message = typeof data === "string" ? JSON.parse(data) : null;
    if (message && message.kind === "introduction") return introduce(message);
    try { if (message) { state = message; tell(); } else await see(data); }
    finally { say({ ready: true }); }
  };
  socket.onclose = () => { tell(); setTimeout(connect, retry *= 1.5); retry = Math.min(retry, 5000); };
}

function say(wish) { if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish)); }

async function see(data) {
  const length = new DataView(data).getUint32(0);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  state = message;
  ages.push(message.worst_age_ms); inferences.push(message.worst_inference_ms);
  if (ages.length > POINTS) { ages.shift(); inferences.shift(); }
  if (!paused) {
    const image = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    shown = { ...message, at: performance.now() };
    const canvas = $("picture");
    if (canvas.width !== image.width || canvas.height !== image.height) { canvas.width = image.width; canvas.height = image.height; }
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.close();
    answer(message);
  }
  tell(); spark();
}

function introduce(message) {
  facts = message;
  $("source").textContent = message.source;
  $("engine").textContent = message.engine;
  document.title = `${message.source} – EdgeHybrid stream`;
  const stamps = [];
  if (message.synthetic) stamps.push("synthetic scene, no camera");
  if (!message.trained) stamps.push("untrained weights, the answers mean nothing");
  $("stamp").hidden = !stamps.length;
  $("stamp").textContent = stamps.join("; ").replace(/^./, (c) => c.toUpperCase());
  $("choices").replaceChildren(...message.variants.map(choice));
}

function choice(variant) {
  const label = document.createElement("label"), input = document.createElement("input");
  input.type = "radio"; input.name = "variant"; input.value = variant.name;
  input.addEventListener("change", () => { choosing = { name: variant.name, at: performance.now() }; say({ choose: variant.name }); });
  const name = document.createElement("b"), text = document.createElement("small");
  name.textContent = variant.name;
  text.textContent = cost(variant);
  label.style.setProperty("--mark", `var(--${variant.name === "model" ? "fp32" : variant.name})`);
  label.append(input, name, text);
  return label;
}

function cost(variant) {
  const parts = [];
  const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x).toFixed(1);
  if (variant.drop) parts.push(`drop ${signed(variant.drop.points)} points [${signed(variant.drop.ci95[0])}, ${signed(variant.drop.ci95[1])}]`);
  else if (variant.agreement) parts.push(`no drop measured; agrees with fp32 on ${variant.agreement.percent.toFixed(1)} % of ${variant.agreement.n.toLocaleString("en")} images`);
  else if (variant.name === "fp32" && facts.variants.length > 1) parts.push("the reference of every drop");
  else parts.push("drop not measured");
  if (variant.p50_ms) parts.push(`p50 ${variant.p50_ms.toFixed(1)} ms when built, on ${variant.measured_on}`);
  return parts.join("; ");
}

function answer(message) {
  $("best").textContent = message.late ? `Too late: ${message.top[0][0]}` : message.top[0][0];
  $("best").className = message.late ? "late" : "";
  const list = $("top");
  while (list.children.length < message.top.length) {
    const item = document.createElement("li");
    item.append(document.createElement("span"), document.createElement("b"), document.createElement("i"));
    list.append(item);
  }
  while (list.children.length > message.top.length) list.lastChild.remove();
  message.top.forEach(([label, share], row) => {
    const [name, percent, bar] = list.children[row].children;
    name.textContent = label; name.title = label;
    percent.textContent = `${(100 * share).toFixed(1)} %`;
    bar.style.setProperty("--share", share);
  });
  $("frame").textContent = `frame ${message.id.toLocaleString("en")}, ${message.ran}, ${Math.round(message.age_ms)} ms from capture to answer`;
  $("snapshot").disabled = false;
}

const PHASES = { live: "live", connecting: "connecting", waiting: "lost", blank: "no picture", frozen: "frozen", ended: "ended", gone: "no server" };

function tell() {
  const open = socket && socket.readyState === WebSocket.OPEN;
  const phase = !open && state ? "gone" : state ? state.phase : "connecting";
  const chip = $("phase");
  if (chip.dataset.phase !== phase) { chip.dataset.phase = phase; chip.className = `chip ${phase}`; chip.textContent = PHASES[phase]; }
  age(phase);
  if (!state) return;
  const f = state.figures;
  const number = (x, digits = 0) => (x === null || x === undefined ? "–" : x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  $("fps").textContent = number(f.fps, 1);
  $("frames").textContent = `${number(f.inferred)} of ${number(f.captured)} frames`;
  $("age").textContent = number(f.age_p50);
  $("age99").textContent = `p99 ${number(f.age_p99)}, max ${number(f.age_max)} ms`;
  $("inference").textContent = number(f.inference_p50, 1);
  $("inference99").textContent = `p99 ${number(f.inference_p99, 1)} ms`;
  $("dropped").textContent = number(f.dropped);
  $("refused").textContent = [[f.stale, "stale"], [f.blank, "blank"], [f.damaged, "damaged"], [f.frozen, "frozen"], [f.late, "late"], [f.reconnects, f.reconnects === 1 ? "reconnect" : "reconnects"]]
    .filter(([n]) => n).map(([n, what]) => `${number(n)} ${what}`).join(", ") || "no reconnect";
  const busy = choosing && performance.now() - choosing.at < 1000 ? choosing.name : state.wanted;
  for (const input of document.querySelectorAll("#choices input")) input.checked = input.value === busy;
  const loading = state.wanted !== state.variant ? `loading ${state.wanted} …` : state.problem;
  if ($("problem").textContent !== loading) $("problem").textContent = loading;
  device(state.device);
}

// A picture that is no longer true is shown as such: grey, with the reason over it.
function age(phase) {
  const since = shown ? (performance.now() - shown.at + shown.seen_ms) / 1000 : 0;
  const limit = Math.max(1, facts ? 2 * facts.max_age_ms / 1000 : 1);
  const old = !paused && phase !== "ended" && (phase !== "live" || (facts && facts.live && shown && since > limit));
  document.querySelector("main").classList.toggle("old", Boolean(old));
  if (!old) return;
  const lines = { connecting: "Connecting", waiting: "The source is lost", blank: "No picture: every pixel has one colour", frozen: "Frozen: the camera repeats its picture to the last bit", gone: "The command has ended, or cannot be reached", live: "No new answer" };
  const why = phase === "gone" ? "" : phase === "waiting" ? `${state.reason}; next attempt after ${state.retry_s.toFixed(1)} s` : state ? state.reason : "";
  const small = document.createElement("small");
  small.textContent = [why, shown ? `the last frame is ${since.toFixed(0)} s old` : ""].filter(Boolean).join(" · ");
  $("over").replaceChildren(lines[phase], small);
}

function device(told) {
  const rows = Object.entries(told), list = $("device");
  if (list.children.length !== 2 * rows.length)
    list.replaceChildren(...rows.flatMap(() => [document.createElement("dt"), document.createElement("dd")]));
  rows.forEach(([name, text], row) => { list.children[2 * row].textContent = name; list.children[2 * row + 1].textContent = text; });
}

function spark() {
  const highest = Math.max(...ages, ...inferences, 1);
  const step = 10 ** Math.floor(Math.log10(highest)), top = [1, 2, 5, 10].map((n) => n * step).find((n) => n >= highest);
  const line = (values) => values.map((value, at) => `${(600 * (at + POINTS - values.length) / (POINTS - 1)).toFixed(1)},${(95 - 94 * value / top).toFixed(1)}`).join(" ");
  $("line-age").setAttribute("points", line(ages));
  $("line-inference").setAttribute("points", line(inferences));
  const limit = 95 - 94 * facts.max_age_ms / top;
  for (const end of ["y1", "y2"]) $("limit").setAttribute(end, limit);
  $("scale-top").textContent = `${top} ms`;
  $("scale-mid").textContent = `${top / 2}`;
  $("now").textContent = `now ${Math.round(ages.at(-1))} ms`;
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").firstChild.textContent = paused ? "View paused " : "Pause view ";
  tell();
}

function snapshot() {
  if (!shown) return;
  const from = $("picture"), scale = Math.max(1, from.width / 640), line = 24 * scale, to = document.createElement("canvas");
  to.width = from.width; to.height = from.height + line * (shown.top.length + 2);
  const draw = to.getContext("2d");
  draw.fillStyle = "#101316"; draw.fillRect(0, 0, to.width, to.height);
  draw.drawImage(from, 0, 0);
  draw.font = `${14 * scale}px sans-serif`; draw.fillStyle = "#e7eaed";
  const lines = [`${facts.source}  frame ${shown.id}  ${shown.ran}  age ${Math.round(shown.age_ms)} ms${shown.late ? "  TOO LATE" : ""}`,
    ...shown.top.map(([label, share]) => `${(100 * share).toFixed(1)} %  ${label}`)];
  if (facts.synthetic || !facts.trained) lines[0] += `  (${$("stamp").textContent})`;
  lines.forEach((text, row) => draw.fillText(text, 12 * scale, from.height + line * (row + 1), to.width - 24 * scale));
  to.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob); link.download = `edgehybrid-frame-${shown.id}.png`; link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

$("pause").addEventListener("click", pause);
$("snapshot").addEventListener("click", snapshot);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  if (key === "p") pause(); else if (key === "s") snapshot();
});
setInterval(tell, 500);
connect();
