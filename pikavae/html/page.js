// A sandboxed frame with a blob: address, as experiment trackers show files in, follows no link to a part of itself.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (target) {
    event.preventDefault();
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }
});
