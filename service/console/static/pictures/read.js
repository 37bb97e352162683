/** Pictures from a drop, a file dialog, the clipboard or a zip file, each with the class that its folder names. */

import { t } from "../core/i18n.js";
import { readZip } from "./zip.js";

const PICTURE = /\.(png|jpe?g|webp|bmp|tiff?|gif|avif|heic)$/i;
const CLUTTER = /(^|\/)(\.|__MACOSX\/|@eaDir\/|Thumbs\.db$|desktop\.ini$)/i;
const isZip = (file) => /\.zip$/i.test(file.name) || file.type === "application/zip";
const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

/**
 * @typedef {{file: File, path: string}} Found a file and its path within what was dropped
 * @typedef {{file: File, label: string | null}} Entry a picture and the class that its folder names, if any
 * @typedef {{entries: Entry[], skipped: string[]}} Intake
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
export const single = (file) => ({ entries: [{ file, label: null }], skipped: [] });

/** @returns {Promise<Found[]>} */
async function walk(entry) {
  if (entry instanceof File) return [{ file: entry, path: entry.name }];
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
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

/** @param {Found[]} found */
async function sort(found) {
  const wanted = found.filter(({ path }) => !CLUTTER.test(path));
  const intakes = [labelled(wanted.filter(({ file }) => !isZip(file)))];
  for (const { file } of wanted.filter(({ file }) => isZip(file))) {
    const inside = await readZip(file, (path) => PICTURE.test(path) && !CLUTTER.test(path)).catch(() => null);
    intakes.push(inside ? labelled(inside) : { entries: [], skipped: [t("skipped.zip", { name: file.name })] });
  }
  return {
    entries: intakes.flatMap(({ entries }) => entries),
    skipped: intakes.flatMap(({ skipped }) => skipped),
  };
}

/**
 * Name the class of each picture: the folder that it is in, below a folder around all of them.
 * @param {Found[]} found
 * @returns {Intake}
 */
function labelled(found) {
  const pictures = found.filter(({ file }) => isPicture(file));
  const skipped = found.filter(({ file }) => !isPicture(file)).map(({ path }) => path);
  const paths = pictures.map(({ path }) => path.split(/[/\\]/));
  const around = paths[0]?.[0];
  const wrapped = paths.every((steps) => steps.length > 1 && steps[0] === around) && paths.some((steps) => steps.length > 2);
  const entries = pictures.map(({ file }, index) => {
    const steps = paths[index];
    const folders = wrapped && steps.length > 2 ? steps.slice(1, -1) : steps.slice(0, -1);
    return { file, label: folders[0] ?? null };
  });
  return { entries, skipped };
}
