// Data of the gallery by the name of its file: a list of sections, or a part of the search index. What is not in this
// page is a script in gallery/, because pages on a disk may not fetch. Each file brings the digest that this page
// expects, so that a gallery that was made anew meanwhile isn't mixed with the old one.
const MOST_HELD = 100;
const head = JSON.parse(document.getElementById("head").textContent);
const held = new Map();  // name -> promise of data, the longest held first
const inline = new Set();
const asked = new Map();
for (const block of document.querySelectorAll("script[data-shard]")) {
  inline.add(block.dataset.shard);
  held.set(block.dataset.shard, Promise.resolve(JSON.parse(block.textContent)));
}

window.galleryShard = (name, digest, text) => {
  if (digest === head.digests[name]) asked.get(name)?.resolve(JSON.parse(text));
};

function shard(name) {
  if (!held.has(name)) {
    const pages = [...held.keys()].filter(each => !inline.has(each) && !each.startsWith("index-"));
    if (pages.length >= MOST_HELD) held.delete(pages[0]);
    held.set(name, fetched(name));
  }
  return held.get(name);
}

function fetched(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    let done = false;
    asked.set(name, {resolve: data => { done = true; resolve(data); }});
    script.src = `gallery/${name}.js?v=${head.digests[name]}`;
    script.onload = script.onerror = () => {
      script.remove();
      asked.delete(name);
      if (done) return;
      held.delete(name);
      reject(new Error(`gallery/${name}.js can't be read, or is newer than this page. Reload the page.`));
    };
    document.head.append(script);
  });
}

// The sections with these numbers, in the same order.
async function sectionsAt(numbers) {
  const names = numbers.map(number => fileOf(number));
  const lists = new Map(await Promise.all([...new Set(names)].map(async file => [file, await shard(nameOf(file))])));
  return numbers.map((number, place) => lists.get(names[place])[number - head.firsts[names[place]]]);
}
const nameOf = file => String(file).padStart(5, "0");
function fileOf(number) {
  let low = 0, high = head.firsts.length;  // head.firsts[low] <= number < head.firsts[high]
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (head.firsts[middle] <= number) low = middle; else high = middle;
  }
  return low;
}
