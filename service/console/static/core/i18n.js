/** Texts, numbers and dates in the chosen language. */

import { kept, keep } from "./memory.js";
import { signal } from "./ui.js";

export const LANGUAGES = { en: "English", zh: "中文" };

/** @type {Record<string, string | {one?: string, other: string}>} */
let texts = {};
export const language = signal("en");

/**
 * Load a language and use it from now on.
 * @param {string} name
 */
export async function chooseLanguage(name) {
  const chosen = Object.hasOwn(LANGUAGES, name) ? name : "en";
  texts = (await import(`../texts/${chosen}.js`)).default;
  keep("language", chosen);
  document.documentElement.lang = chosen === "zh" ? "zh-Hans" : chosen;
  language.value = chosen;
}

/** The language that was chosen here before, else the browser's. */
export const preferredLanguage = () => kept("language") ?? navigator.language.slice(0, 2);

/**
 * A text with its values filled in. A text with the forms `one` and `other` is chosen by `n`.
 * @param {string} key
 * @param {Record<string, unknown>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const entry = texts[key];
  if (entry === undefined) return key;
  const form =
    typeof entry === "string" ? entry : (entry[new Intl.PluralRules(language.value).select(values.n)] ?? entry.other);
  return form.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : String(value ?? whole);
  });
}

/** Whether there is a text of this name. */
export const has = (key) => key in texts;

export const number = (value) => new Intl.NumberFormat(language.value, { maximumFractionDigits: 0 }).format(value);

export const percent = (share, digits = 0) =>
  new Intl.NumberFormat(language.value, { style: "percent", maximumFractionDigits: digits }).format(share);

/** Shares of 100 as whole numbers, never rounded up to 100 or down to 0 unless they are. */
export const ofHundred = (share) => {
  const rounded = Math.round(share * 100);
  if (rounded === 100 && share < 1) return 99;
  return rounded === 0 && share > 0 ? 1 : rounded;
};

export const moment = (iso) =>
  new Intl.DateTimeFormat(language.value, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));

/** How long ago, in the largest unit that fits. */
export function ago(iso) {
  const seconds = (new Date(iso).getTime() - Date.now()) / 1000;
  const form = new Intl.RelativeTimeFormat(language.value, { numeric: "auto" });
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return form.format(Math.round(seconds / length), unit);
  }
  return form.format(Math.min(0, Math.round(seconds)), "second");
}

export function bytes(size) {
  const [value, unit] = size < 1e6 ? [size / 1e3, "kilobyte"] : [size / 1e6, "megabyte"];
  return new Intl.NumberFormat(language.value, { style: "unit", unit, maximumFractionDigits: 1 }).format(value);
}
