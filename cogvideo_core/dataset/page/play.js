// Videos of a section play together. Only what is near the screen holds its videos: a browser can't hold thousands of
// decoders, and elements of videos are slow to make.
const playing = new Set();
const button = section => section.querySelector("button");
const videos = section => [...section.querySelectorAll("video")];
const near = new IntersectionObserver(
  entries => entries.forEach(e => (e.isIntersecting ? load : unload)(e.target)), {rootMargin: "500px 0px"});

function load(section) {
  for (const place of section.querySelectorAll(".video:empty")) {
    const video = document.createElement("video");
    video.muted = video.playsInline = true;
    video.preload = "auto";
    video.src = place.dataset.src;
    place.append(video);
  }
}
function unload(section) {
  stop(section);
  for (const video of videos(section)) { video.removeAttribute("src"); video.load(); video.remove(); }
}
function start(section) {
  load(section);
  restart(section);
  playing.add(section);
  button(section).textContent = "Pause";
}
function stop(section) {
  if (!playing.delete(section)) return;
  const list = videos(section);
  for (const video of list) { video.pause(); video.currentTime = list[0].currentTime; }
  button(section).textContent = "Play";
}
function restart(section) {
  const list = videos(section).filter(video => !video.error);
  if (!list.length) return;
  const from = list[0].ended ? 0 : list[0].currentTime;
  for (const video of list) { video.currentTime = from; video.play().catch(() => {}); }
}

// The first video, which is the source, leads: others follow when they are more than 80 ms off, and all begin again together.
function follow() {
  for (const section of playing) {
    const [leader, ...others] = videos(section).filter(video => !video.error);
    if (!leader) { stop(section); continue; }
    if (leader.ended) { restart(section); continue; }
    for (const svg of section.querySelectorAll("svg.mask")) trace(svg, 100 * leader.currentTime / (leader.duration || 1));
    for (const video of others) {
      const ended = video.ended || leader.currentTime >= video.duration;
      if (!ended && Math.abs(video.currentTime - leader.currentTime) > 0.08) video.currentTime = leader.currentTime;
      if (!ended && video.paused && video.readyState > 1) video.play().catch(() => {});
    }
  }
  requestAnimationFrame(follow);
}
requestAnimationFrame(follow);

// Hovering plays a clip; the button keeps it playing.
function playable(section) {
  let hovered = false;
  near.observe(section);
  section.addEventListener("pointerenter", event => {
    if (event.pointerType === "mouse" && !playing.has(section)) { hovered = true; start(section); }
  });
  section.addEventListener("pointerleave", () => { if (hovered) { hovered = false; stop(section); } });
  button(section).addEventListener("click", () => {
    hovered = false;
    (playing.has(section) ? stop : start)(section);
  });
}
function forget(section) {
  near.unobserve(section);
  unload(section);
}
