// Elements of a section. Texts are set as texts, never as markup.
const borders = new WeakMap();
const SMALL_PX = 160;  // below it, pixels are enlarged without smoothing

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter(child => child !== ""));
  return made;
}

function drawn(section, edits) {
  const places = edits || section.edits.map((_, place) => place);
  const heading = make("div", {}, make("h2", {dir: "auto"}, section.heading));
  const play = make("button", {type: "button", "aria-label": `Play or pause ${section.heading} and its edits`}, "Play");
  const tiles = make("div", {class: "tiles"}, source(section), ...places.map(place => tile(section, section.edits[place])));
  const element = make("section", {}, make("div", {}, heading, play), tiles);
  playable(element);
  return element;
}

function source(section) {
  const prompt = section.prompt && make("span", {class: "clamp", title: section.prompt}, section.prompt);
  const caption = make("figcaption", {dir: "auto"}, make("span", {class: "label"}, "Source"), prompt);
  return make("figure", {class: "source"}, video(section, section.url), caption);
}

function tile(section, edit) {
  const figures = edit.figures.flatMap((text, place) => text ? [figure(text, ...head.figures[place])] : []);
  const caption = make("figcaption", {dir: "auto"},
    make("span", {class: "clamp", title: edit.prompt}, edit.prompt),
    make("small", {}, edit.notes),
    edit.verdict && make("small", {class: "verdict"}, edit.verdict),
    figures.length ? make("small", {class: "figures"}, ...figures) : "",
    edit.scores && make("details", {class: "all"}, make("summary", {}, "All figures"), make("small", {}, edit.scores)),
    edit.own && make("details", {class: "all"}, make("summary", {}, "Own columns"), make("small", {}, edit.own)));
  const kinds = [edit.rejected && "rejected", !edit.kept && "out"].filter(Boolean);
  const shown = edit.url ? outlined(section, edit, video(section, edit.url)) : make("div", {class: "none"}, "given up early, no video");
  return make("figure", {"data-key": edit.key, "data-said": edit.said, class: kinds.join(" ")}, shown, caption);
}
const figure = (text, word, meaning) => make("span", {title: meaning}, `${word} `, make("b", {}, text));

// A video under the outline of its mask, which is a list of "percent of the clip:path".
function outlined(section, edit, place) {
  if (edit.mask === undefined) return place;
  const svg = document.getElementById("outline").content.firstElementChild.cloneNode(true);
  borders.set(svg, section.masks[edit.mask].split(";").map(part => part.split(":")));
  trace(svg, 0);
  return make("div", {class: "masked"}, place, svg);
}
function trace(svg, percent) {
  const path = borders.get(svg).findLast(([from]) => Number(from) <= percent)?.[1] || "";
  if (svg.firstChild.getAttribute("d") !== path) for (const line of svg.children) line.setAttribute("d", path);
}

function video(section, url) {
  const place = make("div", {class: section.width < SMALL_PX ? "video small" : "video", "data-src": url});
  place.style.aspectRatio = `${section.width} / ${section.height}`;
  return place;
}
