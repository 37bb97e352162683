/** Dark or light: as the system says, until someone chooses. */

import { signal } from "./ui.js";

const STORED = "anole.theme";
export const THEMES = ["auto", "light", "dark"];
export const theme = signal(localStorage.getItem(STORED) ?? "auto");

export function chooseTheme(name) {
  theme.value = name;
  localStorage.setItem(STORED, name);
  applyTheme();
}

export function applyTheme() {
  document.documentElement.dataset.theme = theme.value;
}
