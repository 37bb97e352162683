/** Dark or light: as the system says, until someone chooses. The styles look at `data-theme` alone. */

import { signal } from "./ui.js";

const STORED = "anole.theme";
export const THEMES = ["auto", "light", "dark"];
export const theme = signal(localStorage.getItem(STORED) ?? "auto");

export function chooseTheme(name) {
  theme.value = name;
  localStorage.setItem(STORED, name);
  applyTheme();
}

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
systemIsDark.addEventListener("change", applyTheme);

export function applyTheme() {
  const ofSystem = systemIsDark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme.value === "auto" ? ofSystem : theme.value;
}
