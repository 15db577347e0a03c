"use strict";
// The page is complete without this script; it adds colours by choice, numbers under the pointer, and filters.
const SVG = "http://www.w3.org/2000/svg";
const PAGE = 12;

const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});

const tip = document.getElementById("tip");

function short(value) {
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function nearest(points, x) {
  return points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best));
}

function placeTip(event) {
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, event.clientY - box.height - 12) + "px";
}

for (const chart of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const [left, right, top, bottom] = data.box;
  const { width, height } = chart.viewBox.baseVal;
  const guide = document.createElementNS(SVG, "line");
  guide.setAttribute("class", "guide");
  guide.setAttribute("y1", top);
  guide.setAttribute("y2", height - bottom);
  guide.style.display = "none";
  chart.append(guide);

  const leave = () => { guide.style.display = "none"; tip.hidden = true; };
  const show = (event) => {
    const frame = chart.getBoundingClientRect();
    const share = ((event.clientX - frame.left) / frame.width * width - left) / (width - left - right);
    const at = data.x[0] + share * (data.x[1] - data.x[0]);
    const step = nearest(data.series[0].points, at)[0];
    const x = left + (step - data.x[0]) / (data.x[1] - data.x[0]) * (width - left - right);
    guide.setAttribute("x1", x);
    guide.setAttribute("x2", x);
    guide.style.display = "";
    const lines = data.series.map((s) => `${s.name} ${short(nearest(s.points, step)[1])}`);
    tip.textContent = [`${data.name} ${step}`, ...lines].join("\n");
    tip.hidden = false;
    placeTip(event);
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointercancel", leave);
}

const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  const [reason, correct, step, shown] = ["reason", "correct", "step", "shown"].map((id) => document.getElementById(id));
  const rollouts = [...document.querySelectorAll(".rollout")];
  const more = document.getElementById("more");
  let most = PAGE;
  const fits = (one) => (!reason.value || one.dataset.reasons.split("|").includes(reason.value))
    && (!correct.value || one.dataset.correct === correct.value)
    && (!step.value || one.dataset.step === step.value);
  const filter = () => {
    const fitting = rollouts.filter(fits);
    const visible = new Set(fitting.slice(0, most));
    for (const one of rollouts) one.hidden = !visible.has(one);
    shown.textContent = `${fitting.length} of ${rollouts.length}`;
    more.hidden = fitting.length <= most;
    more.textContent = `Show ${fitting.length - most} more`;
  };
  const restart = () => { most = PAGE; filter(); };
  for (const select of [reason, correct, step]) select.addEventListener("change", restart);
  more.addEventListener("click", () => { most = Infinity; filter(); });
  filter();
}
