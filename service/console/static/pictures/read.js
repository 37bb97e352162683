/** Pictures from a drop, a file dialog, the clipboard or a zip file, each with the class that its folder names. */

import { t } from "../core/i18n.js";
import { readZip } from "./zip.js";

const PICTURE = /\.(png|jpe?g|webp|bmp|tiff?|gif|avif|heic)$/i;
const CLUTTER = /(^|\/)(\.|__MACOSX\/|@eaDir\/|Thumbs\.db$|desktop\.ini$)/i;
const isZip = (file) => /\.zip$/i.test(file.name) || file.type === "application/zip";
const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

/**
 * @typedef {{file: File | null, path: string}} Found a file, or null if it is gone, and its path in what was dropped
 * @typedef {{file: File, label: string | null, note?: string}} Entry a picture, the class that its folder names, if any,
 * and a text that goes with it
 * @typedef {{entries: Entry[], skipped: string[]}} Intake the pictures, and what was left out and why
 */

/**
 * Start to read what was dropped. The list of a drop is only valid during its event, so this takes all handles at once.
 * @param {DataTransfer} transfer
 * @returns {Promise<Intake>}
 */
export function fromTransfer(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const handles = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  return Promise.all(handles.filter(Boolean).map(walk)).then((found) => sort(found.flat()));
}

/**
 * @param {Iterable<File>} files of a file dialog, a folder dialog or the clipboard
 * @returns {Promise<Intake>}
 */
export const fromFiles = (files) =>
  sort([...files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));

/** @returns {Intake} one picture without a class, such as a frame of the camera */
export const single = (file, note = "") => ({ entries: [{ file, label: null, note }], skipped: [] });

/** @returns {Promise<Found[]>} */
async function walk(entry) {
  if (entry instanceof File) return [{ file: entry, path: entry.name }];
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(null)));
    return [{ file, path }];
  }
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map(walk))).flat();
}

/**
 * @param {Found[]} found
 * @returns {Promise<Intake>}
 */
async function sort(found) {
  const entries = [];
  const skipped = [];
  const leave = (name, reason) => skipped.push(t("skipped.one", { name, reason: t(`skipped.${reason}`) }));
  for (const { file, path } of found.filter(({ path }) => !CLUTTER.test(path))) {
    if (!file) leave(path, "gone");
    else if (!file.size) leave(path, "empty");
    else if (isPicture(file)) entries.push({ file, label: folderOf(path) });
    else if (!isZip(file)) leave(path, "picture");
    else {
      const inside = await readZip(file, (each) => PICTURE.test(each), (each) => CLUTTER.test(each)).catch(() => null);
      if (!inside) leave(path, "zip");
      else if (!inside.found.length && !inside.left.length) leave(path, "empty");
      for (const each of inside?.found ?? []) entries.push({ file: each.file, label: folderOf(each.path) });
      for (const each of inside?.left ?? []) leave(`${file.name}/${each.path}`, each.reason);
    }
  }
  return { entries, skipped };
}

/** The folder that a file is in, which names its class, as in archives that are sent to the service. */
const folderOf = (path) => path.split(/[/\\]/).at(-2) ?? null;
