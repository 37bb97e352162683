/** Dark or light: as the system says, until someone chooses. The styles look at `data-theme` alone. */

import { kept, keep } from "./memory.js";
import { signal } from "./ui.js";

export const THEMES = ["auto", "light", "dark"];
export const theme = signal(THEMES.find((name) => name === kept("theme")) ?? "auto");

/** The theme after the current one. After that of the system, it is the other one of dark and light, which can be seen. */
export function nextTheme() {
  const order = systemIsDark.matches ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
  return order[(order.indexOf(theme.value) + 1) % order.length];
}

export function chooseTheme(name) {
  theme.value = name;
  keep("theme", name);
  applyTheme();
}

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
systemIsDark.addEventListener("change", applyTheme);

export function applyTheme() {
  const ofSystem = systemIsDark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme.value === "auto" ? ofSystem : theme.value;
}
