"use strict";
// Draws every curve again as large as there is room, smooths all of them alike, and zooms all of them together.
// The page is complete without it: each figure holds a drawing already, and its numbers as JSON.
{
  const SVG = "http://www.w3.org/2000/svg";
  const LEFT = 46, RIGHT = 12, TOP = 12, BOTTOM = 26;
  const SMOOTH_FROM = 20, DRAG_PX = 6;
  const tip = document.getElementById("tip");
  const tools = document.getElementById("chart-tools");
  const byId = (id) => document.getElementById(id);
  const shared = { smooth: 10, low: null, high: null };
  const charts = [];

  const element = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
    if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
    if (size >= 1000) return String(Math.round(value));
    return size && size < 1e-3 ? Number(value.toPrecision(3)).toExponential() : String(Number(value.toPrecision(3)));
  };

  const roundStep = (step) => {
    const power = 10 ** Math.floor(Math.log10(step));
    return [1, 2, 2.5, 5, 10].find((m) => m * power >= step * (1 - 1e-9)) * power;
  };

  // The same range that the page's drawing has: round numbers, and zero where values come near it.
  const axis = (lowest, highest, ticks) => {
    let [low, high] = [lowest, highest];
    if (low === high) [low, high] = [low - 0.1 * Math.abs(low), high ? high + 0.1 * Math.abs(high) : 1];
    if (low > 0 && low < 0.4 * high) low = 0;
    if (high < 0 && high > 0.4 * low) high = 0;
    const step = roundStep((high - low) / ticks);
    const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
    return { low: first * step, high: last * step, ticks: Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step) };
  };

  const wholeTicks = (low, high, room) => {
    const step = Math.ceil(Math.max(1, roundStep(Math.max(high - low, 1) / Math.max(2, room))));
    const ticks = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(at);
    return ticks;
  };

  const smoothed = (values) => {
    const half = Math.round((values.length * shared.smooth) / 200);
    if (values.length < SMOOTH_FROM || half < 1) return values;
    const sums = [0];
    for (const value of values) sums.push(sums[sums.length - 1] + value);
    return values.map((_, k) => {
      const first = Math.max(0, k - half), last = Math.min(values.length, k + half + 1);
      return (sums[last] - sums[first]) / (last - first);
    });
  };

  const nearest = (places, at) => {
    let low = 0, high = places.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] < at) low = middle; else high = middle;
    }
    return Math.abs(places[low] - at) <= Math.abs(places[high] - at) ? low : high;
  };

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.svg = figure.querySelector("svg.chart");
      this.data = JSON.parse(figure.querySelector("script").textContent);
      this.title = figure.querySelector("figcaption span").textContent;
      this.height = this.svg.viewBox.baseVal.height;
      const places = this.data.series.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]);
      this.first = Math.min(...places);
      this.last = Math.max(...places);
      this.at = null;
      this.label = this.svg.getAttribute("aria-label");
      this.svg.setAttribute("tabindex", "0");
      this.svg.setAttribute("role", "application");
      this.svg.setAttribute("aria-roledescription", "curve");
      this.svg.setAttribute("aria-label", `${this.title}. ${this.label}. Arrow keys read values.`);
      this.addEnlarge();
      this.listen();
      new ResizeObserver(() => this.draw()).observe(figure);
    }

    get low() { return shared.low ?? this.first; }
    get high() { const high = shared.high ?? this.last; return high > this.low ? high : this.low + 1; }
    across(x) { return LEFT + ((x - this.low) / (this.high - this.low)) * (this.width - LEFT - RIGHT); }
    down(y) { return this.tall - BOTTOM - ((y - this.y.low) / (this.y.high - this.y.low)) * (this.tall - TOP - BOTTOM); }
    place(px) { return this.low + ((px - LEFT) / (this.width - LEFT - RIGHT)) * (this.high - this.low); }

    draw() {
      const width = this.svg.clientWidth || this.svg.getBoundingClientRect().width;
      if (!width) return;
      this.width = width;
      this.tall = this.figure.classList.contains("enlarged") ? Math.min(420, Math.max(this.height, width * 0.5)) : this.height;
      this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.tall}`);
      this.svg.setAttribute("height", this.tall);
      this.svg.replaceChildren();
      const layers = this.data.stacked ? this.stacked() : this.lines();
      this.range(layers);
      this.grid();
      for (const mark of this.data.marks) {
        if (mark < this.low || mark > this.high) continue;
        const x = this.across(mark);
        this.svg.append(element("line", { class: "mark", x1: x, x2: x, y1: TOP, y2: this.tall - BOTTOM }));
      }
      for (const layer of layers) this.svg.append(this.shape(layer));
      if (!this.data.stacked) for (const one of this.data.series) this.end(one);
      this.guide = element("line", { class: "guide", y1: TOP, y2: this.tall - BOTTOM, visibility: "hidden" });
      this.chosen = element("rect", { class: "chosen", y: TOP, height: this.tall - TOP - BOTTOM, visibility: "hidden" });
      this.svg.append(this.guide, this.chosen);
      if (this.at !== null) this.point(this.at);
    }

    end(one) {
      const bold = smoothed(one.y), k = one.x.length - 1;
      if (one.x[k] > this.high || one.x[k] < this.low) return;
      this.svg.append(element("circle", { class: `dot s${one.colour}`, cx: this.across(one.x[k]), cy: this.down(bold[k]), r: 2.6 }));
    }

    lines() {
      const layers = [];
      const band = this.data.band;
      if (band) layers.push({ css: "band", xs: band[0].x, lower: band[0].y, upper: band[1].y });
      for (const one of this.data.series) {
        const bold = smoothed(one.y);
        if (bold !== one.y) layers.push({ css: `line s${one.colour} faint`, xs: one.x, upper: one.y });
        layers.push({ css: `line s${one.colour}`, xs: one.x, upper: bold });
      }
      return layers;
    }

    stacked() {
      const places = [...new Set(this.data.series.flatMap((one) => one.x))].sort((a, b) => a - b);
      const above = new Map(places.map((x) => [x, 0])), below = new Map(above);
      const layers = this.data.series.map((one) => {
        const known = new Map(smoothed(one.y).map((value, k) => [one.x[k], value]));
        const lower = [], upper = [];
        for (const x of places) {
          const value = known.get(x) ?? 0, side = value >= 0 ? above : below, start = side.get(x);
          side.set(x, start + value);
          lower.push(Math.min(start, start + value));
          upper.push(Math.max(start, start + value));
        }
        return { css: `layer s${one.colour}`, xs: places, lower, upper };
      });
      this.sum = { xs: places, values: places.map((x) => above.get(x) + below.get(x)) };
      return [...layers, { css: "line sum", xs: places, upper: this.sum.values }];
    }

    range(layers) {
      let low = this.data.stacked ? 0 : Infinity, high = this.data.stacked ? 0 : -Infinity;
      for (const layer of layers) {
        layer.xs.forEach((x, k) => {
          if (x < this.low || x > this.high) return;
          low = Math.min(low, layer.lower ? layer.lower[k] : layer.upper[k]);
          high = Math.max(high, layer.upper[k]);
        });
      }
      this.y = Number.isFinite(low) ? axis(low, high, 4) : axis(0, 1, 4);
    }

    grid() {
      for (const tick of this.y.ticks) {
        const y = this.down(tick);
        this.svg.append(element("line", { class: Math.abs(tick) < 1e-12 ? "rule zero" : "rule", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
        this.svg.append(element("text", { class: "tick", x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, short(Number(tick.toPrecision(12)))));
      }
      for (const tick of wholeTicks(this.low, this.high, this.width / 70)) {
        this.svg.append(element("text", { class: "tick", x: this.across(tick), y: this.tall - 8, "text-anchor": "middle" }, short(tick)));
      }
    }

    // Points inside the range and the next ones outside it; where several share a pixel, the lowest and the highest.
    visible(xs, values) {
      let first = xs.findIndex((x) => x >= this.low), last = xs.findLastIndex((x) => x <= this.high);
      if (first < 0 || last < first) return [];
      first = Math.max(0, first - (xs[first] > this.low ? 1 : 0));
      last = Math.min(xs.length - 1, last + (xs[last] < this.high ? 1 : 0));
      const size = Math.max(1, Math.floor((last - first + 1) / this.width));
      const points = [];
      for (let k = first; k <= last; k += size) {
        let low = k, high = k;
        for (let j = k; j < Math.min(k + size, last + 1); j++) {
          if (values[j] < values[low]) low = j;
          if (values[j] > values[high]) high = j;
        }
        points.push(Math.min(low, high));
        if (low !== high) points.push(Math.max(low, high));
      }
      return points.map((k) => this.inside(xs, values, k));
    }

    // A line that leaves the range ends at its edge.
    inside(xs, values, k) {
      const edge = xs[k] < this.low ? this.low : xs[k] > this.high ? this.high : null;
      if (edge === null) return [this.across(xs[k]), this.down(values[k])];
      const other = edge === this.low ? k + 1 : k - 1;
      if (other < 0 || other >= xs.length) return [this.across(edge), this.down(values[k])];
      const share = (edge - xs[k]) / (xs[other] - xs[k]);
      return [this.across(edge), this.down(values[k] + share * (values[other] - values[k]))];
    }

    shape(layer) {
      const path = (points) => points.map(([x, y]) => `${x.toFixed(1)},${Math.min(this.tall + 50, Math.max(-50, y)).toFixed(1)}`).join(" ");
      const upper = this.visible(layer.xs, layer.upper);
      if (!layer.lower) return element("polyline", { class: layer.css, points: path(upper) });
      return element("polygon", { class: layer.css, points: path([...upper, ...this.visible(layer.xs, layer.lower).reverse()]) });
    }

    places() { return this.data.stacked ? this.sum.xs : this.data.series[0].x; }

    point(step) {
      if (!this.guide) return;
      const visible = step !== null && step >= this.low && step <= this.high;
      this.guide.setAttribute("visibility", visible ? "visible" : "hidden");
      if (visible) {
        this.guide.setAttribute("x1", this.across(step));
        this.guide.setAttribute("x2", this.across(step));
      }
    }

    words(step) {
      const lines = this.data.series.map((one) => `${one.name} ${short(one.y[nearest(one.x, step)])}`);
      if (this.data.stacked) lines.push(`together ${short(this.sum.values[nearest(this.sum.xs, step)])}`);
      return [`${this.data.name} ${step}`, ...lines].join("\n");
    }

    show(step, x, y) {
      this.at = step;
      for (const chart of charts) chart.point(step);
      tip.textContent = this.words(step);
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
      tip.style.top = `${Math.max(8, y - box.height - 12)}px`;
    }

    hide() {
      this.at = null;
      tip.hidden = true;
      for (const chart of charts) chart.point(null);
    }

    px(event) {
      return event.clientX - this.svg.getBoundingClientRect().left;
    }

    listen() {
      let from = null;
      const finish = (event) => {
        const until = from === null ? null : this.px(event);
        if (until !== null && Math.abs(until - from) > DRAG_PX && event.type === "pointerup") {
          const [low, high] = [from, until].sort((a, b) => a - b).map((px) => Math.round(this.place(px)));
          zoom(Math.max(this.low, low), Math.min(this.high, high));
        }
        from = null;
        this.chosen.setAttribute("visibility", "hidden");
      };
      this.svg.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        from = this.px(event);
        this.svg.setPointerCapture(event.pointerId);
      });
      this.svg.addEventListener("pointermove", (event) => {
        const px = this.px(event);
        const places = this.places();
        this.show(places[nearest(places, this.place(px))], event.clientX, event.clientY);
        if (from === null || Math.abs(px - from) <= DRAG_PX) return;
        this.chosen.setAttribute("x", Math.max(LEFT, Math.min(from, px)));
        this.chosen.setAttribute("width", Math.abs(Math.min(this.width - RIGHT, px) - from));
        this.chosen.setAttribute("visibility", "visible");
      });
      this.svg.addEventListener("pointerup", finish);
      this.svg.addEventListener("pointercancel", finish);
      this.svg.addEventListener("pointerleave", () => { if (from === null) this.hide(); });
      this.svg.addEventListener("dblclick", () => zoom(null, null));
      this.svg.addEventListener("blur", () => this.hide());
      this.svg.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      const places = this.places();
      const now = this.at === null ? -1 : nearest(places, this.at);
      const by = event.shiftKey ? 10 : 1;
      const moves = { ArrowRight: now + by, ArrowLeft: now < 0 ? places.length - 1 : now - by, Home: 0, End: places.length - 1 };
      if (event.key in moves) {
        let next = Math.max(0, Math.min(places.length - 1, moves[event.key]));
        if (places[next] < this.low) next = places.findIndex((x) => x >= this.low);
        if (places[next] > this.high) next = places.findLastIndex((x) => x <= this.high);
        const frame = this.svg.getBoundingClientRect();
        this.show(places[next], frame.left + this.across(places[next]), frame.top + TOP + 20);
      } else if (event.key === "+" || event.key === "=") {
        this.scale(0.5);
      } else if (event.key === "-" || event.key === "_") {
        this.scale(2);
      } else if (event.key === "Escape" || event.key === "0") {
        zoom(null, null);
      } else {
        return;
      }
      event.preventDefault();
    }

    scale(factor) {
      const middle = this.at ?? (this.low + this.high) / 2;
      const half = ((this.high - this.low) * factor) / 2;
      zoom(Math.max(extent.first, Math.round(middle - half)), Math.min(extent.last, Math.round(middle + half)));
    }

    addEnlarge() {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "enlarge";
      button.textContent = "⤢";
      button.setAttribute("aria-label", `Enlarge ${this.title}`);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(this.figure.classList.toggle("enlarged")));
        this.draw();
      });
      this.figure.querySelector("figcaption").append(button);
    }
  }

  const extent = { first: 0, last: 1 };

  const zoom = (low, high) => {
    const whole = low === null || high === null || !(high > low) || (low <= extent.first && high >= extent.last);
    shared.low = whole ? null : low;
    shared.high = whole ? null : high;
    byId("low").value = shared.low ?? extent.first;
    byId("high").value = shared.high ?? extent.last;
    byId("whole").disabled = whole;
    tip.hidden = true;
    for (const chart of charts) chart.draw();
  };

  const smooth = () => {
    shared.smooth = Number(byId("smoothing").value);
    const longest = Math.max(...charts.flatMap((chart) => chart.data.series.map((one) => one.x.length)));
    const half = longest < SMOOTH_FROM ? 0 : Math.round((longest * shared.smooth) / 200);
    byId("smoothed").textContent = half ? `mean of ${2 * half + 1} steps` : "none";
    for (const chart of charts) chart.draw();
  };

  for (const figure of document.querySelectorAll("figure[data-chart]")) charts.push(new Chart(figure));
  if (charts.length) {
    tools.hidden = false;
    extent.first = Math.min(...charts.map((chart) => chart.first));
    extent.last = Math.max(...charts.map((chart) => chart.last));
    for (const id of ["low", "high"]) {
      byId(id).min = extent.first;
      byId(id).max = extent.last;
      byId(id).addEventListener("change", () => zoom(Number(byId("low").value), Number(byId("high").value)));
    }
    byId("whole").addEventListener("click", () => zoom(null, null));
    byId("smoothing").addEventListener("input", smooth);
    zoom(null, null);
    smooth();
  }
}
