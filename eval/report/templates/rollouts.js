"use strict";
// The browser over all rollouts. Numbers of all are unpacked at once; prompts, responses and verdicts when they are
// looked at or searched. Everything is put in as text: what a model wrote is never read as HTML.
if (document.getElementById("index")) {
  const SVG = "http://www.w3.org/2000/svg";
  const ROW_PX = 54, AHEAD = 8, PAUSE_MS = 150, KEPT = 40;
  const TAG = /<(\/?)(think|answer|perception|info\d{0,3})>|(\\boxed\{[^{}\n]{0,200}\})|<\|[a-z_]{1,24}\|>/g;
  const byId = (id) => document.getElementById(id);
  const [browser, form, list, runway, shown, found] = ["browser", "filters", "list", "runway", "shown", "found"].map(byId);
  const MARKS = { 1: ["✓", "right"], 0: ["✗", "wrong"], "-1": ["·", "not checked"] };

  const make = (tag, css, ...inside) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    made.append(...inside.filter((one) => one !== null && one !== undefined));
    return made;
  };

  const draw = (tag, attributes, ...inside) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };

  const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : "missing");
  const signed = (value) => (typeof value === "number" ? (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2) : "–");
  const words = (name) => name.slice(name.lastIndexOf(":") + 1).replaceAll("_", " ");

  const unpack = async (id) => {
    const packed = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  // The blocks used last stay unpacked.
  const kept = new Map();
  const block = (name, row, size) => {
    const id = `${name}-${Math.floor(row / size)}`;
    const known = kept.get(id) ?? unpack(id);
    kept.delete(id);
    kept.set(id, known);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    return known;
  };

  const start = (all) => {
    const count = all.step.length;
    const state = { rows: [], at: 0, search: 0 };
    const missing = Array.from({ length: count }, (_, row) => all.parts.some((part) => part[row] === null));
    const groups = new Map();
    for (let row = 0; row < count; row++) {
      const key = `${all.step[row]}/${all.problem[row]}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    const groupOf = (row) => groups.get(`${all.step[row]}/${all.problem[row]}`);
    const text = async (row) => (await block("texts", row, all.block))[row % all.block];
    const problem = async (row) => (await block("problems", all.problem[row], all.block))[all.problem[row] % all.block];

    // ---- which rollouts ------------------------------------------------------------------------------------------

    const values = (name) => (name === "total" ? all.total : all.parts[all.names.indexOf(name)]);
    const bound = (name, otherwise) => (form.elements[name].value === "" ? otherwise : Number(form.elements[name].value));

    const filtered = () => {
      const part = values(form.elements.part.value);
      const least = bound("least", null), most = bound("most", null);
      const low = bound("low", -Infinity), high = bound("high", Infinity);
      const outcome = form.elements.outcome.value, kind = form.elements.kind.value, onlyMissing = form.elements.missing.checked;
      const rows = [];
      for (let row = 0; row < count; row++) {
        if (outcome !== "" && all.outcome[row] !== Number(outcome)) continue;
        if (all.step[row] < low || all.step[row] > high) continue;
        if (onlyMissing && !missing[row]) continue;
        if (kind && all.kinds[all.problem[row]] !== kind) continue;
        const value = part[row];
        if (least !== null && !(typeof value === "number" && value >= least)) continue;
        if (most !== null && !(typeof value === "number" && value <= most)) continue;
        rows.push(row);
      }
      return ordered(rows, part);
    };

    const ordered = (rows, part) => {
      const order = form.elements.order.value;
      const number = (value) => (typeof value === "number" ? value : null);
      const keys = { "-step": (row) => -all.step[row], value: (row) => number(part[row]), "-tokens": (row) => -all.tokens[row] };
      keys["-value"] = (row) => { const value = number(part[row]); return value === null ? null : -value; };
      if (!(order in keys)) return rows;
      // What has no value comes last in any order.
      const key = (row) => keys[order](row) ?? Infinity;
      return rows.map((row) => [key(row), row]).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1])).map((pair) => pair[1]);
    };

    // A search reads every block once and lets the page breathe in between; a newer one ends it.
    const holding = async (rows, sought) => {
      const turn = ++state.search, fitting = [];
      let seen = 0;
      for (const row of rows) {
        const [response, judge] = await text(row);
        if (turn !== state.search) return null;
        const [prompt, , answer] = await problem(row);
        const reply = judge ? `${judge[0]}\n${judge[2]}` : "";
        if (`${prompt}\n${answer}\n${response}\n${reply}`.toLowerCase().includes(sought)) fitting.push(row);
        if (++seen % 500 === 0) {
          found.textContent = `${fitting.length.toLocaleString("en")} found, ${seen.toLocaleString("en")} of ${rows.length.toLocaleString("en")} read …`;
          await new Promise((resume) => setTimeout(resume));
        }
      }
      return turn === state.search ? fitting : null;
    };

    const refresh = async () => {
      const sought = form.elements.text.value.trim().toLowerCase();
      let rows = filtered();
      if (sought) rows = await holding(rows.sort((a, b) => a - b), sought).then((some) => some && ordered(some, values(form.elements.part.value)));
      else state.search++;
      if (rows === null) return;
      state.rows = rows;
      found.textContent = `${rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} rollouts.`;
      runway.style.height = `${rows.length * ROW_PX}px`;
      list.scrollTop = 0;
      choose(0, {});
    };

    // ---- the list ------------------------------------------------------------------------------------------------

    const item = (place) => {
      const row = state.rows[place], [mark, said] = MARKS[all.outcome[row]];
      const top = make("span", "preview", all.previews[all.problem[row]] || all.ids[all.problem[row]]);
      const notes = [`step ${all.step[row]}`, `sample ${all.sample[row]}`];
      if (all.cut[row]) notes.push("cut off");
      if (missing[row]) notes.push("no verdict");
      const made = make("div", "row", make("span", `outcome o${all.outcome[row]}`, mark), top, make("span", "value", short(all.total[row])), make("span", "notes", notes.join(" · ")));
      made.id = `row-${place}`;
      made.setAttribute("role", "option");
      made.setAttribute("aria-selected", String(place === state.at));
      made.setAttribute("aria-setsize", state.rows.length);
      made.setAttribute("aria-posinset", place + 1);
      made.setAttribute("aria-label", `${said}, total ${short(all.total[row])}, ${notes.join(", ")}, ${top.textContent}`);
      made.style.transform = `translateY(${place * ROW_PX}px)`;
      made.addEventListener("click", () => { choose(place, {}); reveal(); });
      return made;
    };

    const fill = () => {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - AHEAD);
      const last = Math.min(state.rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_PX) + AHEAD);
      runway.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, k) => item(first + k)));
    };

    const choose = (place, { scroll }) => {
      state.at = Math.max(0, Math.min(state.rows.length - 1, place));
      const top = state.at * ROW_PX;
      if (scroll && (top < list.scrollTop || top + ROW_PX > list.scrollTop + list.clientHeight)) list.scrollTop = Math.max(0, top - list.clientHeight / 2 + ROW_PX);
      fill();
      if (state.rows.length) list.setAttribute("aria-activedescendant", `row-${state.at}`);
      else list.removeAttribute("aria-activedescendant");
      show();
    };

    // On a narrow page list and rollout lie below each other.
    const reveal = () => { if (innerWidth <= 900) shown.scrollIntoView({ block: "start" }); };

    // ---- one rollout ---------------------------------------------------------------------------------------------

    const coloured = (said) => {
      const root = make("pre", "response");
      root.tabIndex = 0;
      let inside = root, position = 0;
      const open = [];
      for (const match of said.matchAll(TAG)) {
        inside.append(said.slice(position, match.index));
        position = match.index + match[0].length;
        const [whole, closing, name, boxed] = match;
        if (boxed) { inside.append(make("b", "boxed", boxed)); continue; }
        if (name && !closing) {
          const span = make("span", `in-${name.startsWith("info") ? "info" : name}`);
          inside.append(span);
          open.push([name, inside]);
          inside = span;
        }
        inside.append(make("b", "tag", whole));
        if (name && closing && open.length && open[open.length - 1][0] === name) inside = open.pop()[1];
      }
      inside.append(said.slice(position));
      return root;
    };

    const outlines = (shapes, css, [wide, high]) => {
      const group = draw("g", { class: css });
      for (const [k, [x1, y1, x2, y2]] of (shapes.boxes ?? []).entries()) {
        const [left, top] = [Math.min(x1, x2) * wide, Math.min(y1, y2) * high];
        group.append(draw("rect", { x: left, y: top, width: Math.abs(x2 - x1) * wide, height: Math.abs(y2 - y1) * high }));
        const label = shapes.labels?.[k];
        if (label) group.append(draw("text", { x: left + wide / 100, y: Math.max(top - high / 100, high / 25), "font-size": Math.max(wide, high) / 24 }, label));
      }
      for (const [x, y] of shapes.points ?? []) group.append(draw("circle", { cx: x * wide, cy: y * high, r: Math.max(wide, high) / 70 }));
      return group;
    };

    const picture = (number, truth, stated, size) => {
      const uri = byId(`image-${number}`)?.textContent;
      if (!uri) return make("div", "no-picture", "The image is not in this page.");
      const image = make("img");
      image.alt = "Image of the problem";
      const frame = make("div", "frame", image);
      image.addEventListener("load", () => {
        if (!truth && !stated) return;
        const sides = size.length ? size : [image.naturalWidth, image.naturalHeight];
        const over = draw("svg", { viewBox: `0 0 ${sides[0]} ${sides[1]}`, preserveAspectRatio: "none", role: "img" });
        over.setAttribute("aria-label", `${counted(truth, "true")}, ${counted(stated, "stated")}`);
        over.append(outlines(truth ?? {}, "true", sides), outlines(stated ?? {}, "stated", sides));
        frame.append(over);
      });
      image.src = uri;
      return frame;
    };

    const counted = (shapes, which) => {
      const boxes = shapes?.boxes?.length ?? 0, points = shapes?.points?.length ?? 0;
      return points ? `${points} ${which} point${points === 1 ? "" : "s"}` : `${boxes} ${which} box${boxes === 1 ? "" : "es"}`;
    };

    const pictures = (images, truth, stated, size) => {
      const some = (shapes) => (shapes && Object.keys(shapes).length ? shapes : null);
      const [right, said] = [some(truth), some(stated)];
      const side = make("div", "pictures", ...images.map((number, k) => picture(number, k ? null : right, k ? null : said, size)));
      if (!images.length) side.append(make("div", "no-picture", "no image"));
      if (size.length) side.append(make("p", "legend", make("span", "", make("i", "key true"), counted(right, "true")), make("span", "", make("i", "key stated"), counted(said, "stated"))));
      return side;
    };

    const breakdown = (row) => {
      const body = make("tbody");
      for (const [k, name] of all.names.entries()) {
        const value = all.parts[k][row];
        if (value === false) continue;
        const weight = all.weights[name], adds = weight !== undefined && typeof value === "number" ? weight * value : null;
        const bar = draw("svg", { class: "part-bar", width: 64, height: 8, "aria-hidden": "true" });
        const size = Math.min(1, Math.abs(adds ?? value ?? 0)) * 64;
        bar.append(draw("rect", { class: `fill s${k % 8}${(adds ?? value) < 0 ? " below" : ""}`, width: size, height: 8, rx: 2 }));
        const head = make("th", "", words(name));
        head.scope = "row";
        body.append(make("tr", value === null ? "absent" : "", head, make("td", "", value === null ? "missing" : short(value)), make("td", "", weight === undefined ? "" : `× ${short(weight)}`), make("td", "", bar)));
      }
      const line = (name, value) => { const head = make("th", "", name); head.scope = "row"; return make("tr", "sum", head, make("td", "", value), make("td"), make("td")); };
      body.append(line("total", short(all.total[row])), line("advantage", signed(all.advantage[row])));
      return make("table", "breakdown", body);
    };

    const verdicts = (facts, judge) => {
      if (!facts.length && !judge) return null;
      const [reply, scores, missingWhy, latency, cached, attempts] = judge ?? ["", [], "", null, 0, 0];
      const list = make("ol", "facts-asked");
      for (const [k, fact] of facts.entries()) {
        const score = scores[k], css = score === undefined ? "o-1" : score >= 0.5 ? "o1" : "o0";
        const said = !judge ? "not asked" : score === undefined ? "no verdict" : score >= 0.5 ? "found" : "not found";
        const sign = make("span", `outcome ${css}`, score === undefined ? "·" : score >= 0.5 ? "✓" : "✗");
        sign.setAttribute("role", "img");
        sign.setAttribute("aria-label", said);
        list.append(make("li", "", sign, make("span", "", fact)));
      }
      const how = [missingWhy ? `no verdict: ${missingWhy}` : "", cached ? "from the cache" : typeof latency === "number" ? `${short(latency)} s` : "", attempts > 1 ? `${attempts} attempts` : ""].filter(Boolean).join(", ");
      const parts = [make("h4", "", !facts.length ? "Judge" : judge ? "Facts to be seen, and what the judge found" : "Facts to be seen"), list];
      if (judge) {
        const answer = make("pre", "", reply || "none");
        answer.tabIndex = 0;
        parts.push(make("details", "", make("summary", "", `Judge${how ? `: ${how}` : ""}`), answer));
      }
      return make("div", "verdicts", ...parts);
    };

    const siblings = (row) => {
      const others = groupOf(row);
      if (others.length < 2) return null;
      const strip = make("div", "group");
      strip.setAttribute("role", "group");
      strip.setAttribute("aria-label", "Samples of the same problem in this step");
      for (const other of others) {
        const button = make("button", `cell o${all.outcome[other]}`, make("span", "", MARKS[all.outcome[other]][0]), ` ${short(all.total[other])}`);
        button.type = "button";
        button.setAttribute("aria-label", `Sample ${all.sample[other]}: ${MARKS[all.outcome[other]][1]}, total ${short(all.total[other])}`);
        button.setAttribute("aria-pressed", String(other === row));
        button.addEventListener("click", () => {
          const place = state.rows.indexOf(other);
          if (place >= 0) choose(place, { scroll: true });
          else show(other);
        });
        strip.append(button);
      }
      return strip;
    };

    const head = (row, [, , answer]) => {
      const [, said] = MARKS[all.outcome[row]];
      const css = all.outcome[row] === 1 ? "right" : all.outcome[row] === 0 ? "wrong" : "";
      const chips = make("p", "chips", make("span", `chip ${css}`, said), make("span", "chip", `step ${all.step[row]}`), make("span", "chip", `sample ${all.sample[row]}`));
      if (answer) chips.append(make("span", "chip answer", `answer ${answer}`));
      chips.append(make("span", "chip plain", `${all.tokens[row]} tokens${all.cut[row] ? ", cut off" : ""}`));
      const place = state.rows.indexOf(row);
      const step = (by, name, sign) => {
        const button = make("button", "", sign);
        button.type = "button";
        button.setAttribute("aria-label", name);
        button.disabled = place + by < 0 || place + by >= state.rows.length;
        button.addEventListener("click", () => { choose(place + by, { scroll: true }); shown.querySelector(`[aria-label="${name}"]`)?.focus(); });
        return button;
      };
      return make("div", "shown-head", chips, make("span", "steps", step(-1, "Rollout before", "←"), step(1, "Rollout after", "→")));
    };

    let showing = 0;
    const show = async (one) => {
      const turn = ++showing, row = one ?? state.rows[state.at];
      if (row === undefined) {
        shown.replaceChildren(make("p", "small", "No rollout fits these filters."));
        return;
      }
      const [[response, judge, stated], task] = await Promise.all([text(row), problem(row)]);
      if (turn !== showing) return;
      const [prompt, images, , facts, truth, size] = task;
      const soft = all.instruction && prompt.endsWith(all.instruction) ? all.instruction : "";
      const asked = make("p", "prompt", prompt.slice(0, prompt.length - soft.length), make("small", "", soft));
      const heading = make("h3", "", `Problem ${all.ids[all.problem[row]]}`);
      const wordsSide = make("div", "words", asked, coloured(response), verdicts(facts, judge));
      const numbers = make("div", "side", pictures(images, truth, stated, size), breakdown(row));
      const parts = [head(row, task), siblings(row), heading, make("div", "rollout", numbers, wordsSide)];
      shown.replaceChildren(...parts.filter(Boolean));
      shown.dataset.row = row;
    };

    // ---- begin ---------------------------------------------------------------------------------------------------

    for (const name of all.names) form.elements.part.append(new Option(words(name), name));
    const kinds = [...new Set(all.kinds)];
    for (const kind of kinds) form.elements.kind.append(new Option(kind, kind));
    form.elements.kind.closest("label").hidden = kinds.length < 2;
    for (const name of ["low", "high"]) {
      form.elements[name].min = all.step[0];
      form.elements[name].placeholder = name === "low" ? all.step[0] : all.step[count - 1];
    }
    let pause = 0;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(refresh, PAUSE_MS); });
    form.addEventListener("reset", () => setTimeout(refresh));
    list.addEventListener("scroll", fill, { passive: true });
    list.addEventListener("keydown", (event) => {
      const page = Math.floor(list.clientHeight / ROW_PX) - 1;
      const moves = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -state.at, End: state.rows.length };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      choose(state.at + moves[event.key], { scroll: true });
    });
    new ResizeObserver(fill).observe(list);
    browser.hidden = false;
    refresh();
  };

  const refuse = () => {
    browser.hidden = false;
    browser.replaceChildren(make("p", "missing", "This browser is too old to unpack the rollouts (DecompressionStream). They are in rollouts.jsonl."));
  };
  if ("DecompressionStream" in window) unpack("index").then(start);
  else refuse();
}
