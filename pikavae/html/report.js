
// Without this script, original and reconstruction stand side by side.
document.documentElement.classList.add("scripted");
document.addEventListener("input", (event) => {
  const stack = event.target.closest(".stack");
  if (stack) stack.style.setProperty("--split", `${event.target.value}%`);
});
