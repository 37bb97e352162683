/** Makes a picture ready: its thumbnail, what to send, its digest, and what the sample doctor measures. */

import { blobOf, canvasOf, canvasWithin } from "./canvas.js";
import { measure } from "./doctor.js";

/** How files begin that the service reads: JPEG, PNG, BMP, TIFF of either byte order, and WebP. */
const READ_BY_SERVICE = /^(\xff\xd8\xff|\x89PNG|BM|II\*\0|MM\0\*|RIFF[^]{4}WEBP)/;

/** Pictures with more pixels are scaled down. The service keeps 65,536 pixels of each, so nothing visible is lost. */
const MAX_PIXELS = 1_500_000;
const MAX_LOSSLESS_BYTES = 4 * 1024 * 1024;
const THUMBNAIL = 192;
const AT_ONCE = 3;

/**
 * @typedef {object} Prepared
 * @property {Blob} file what to send
 * @property {string} name
 * @property {string} url of a thumbnail; empty if the browser cannot show this format
 * @property {boolean} shrunk
 * @property {boolean} unreadable the browser cannot show it, although it shows all formats of the service but TIFF
 * @property {string} digest of the file as it was chosen
 * @property {import("./doctor.js").Look | null} look
 */

/**
 * @param {File} file
 * @returns {Promise<Prepared>}
 */
export async function prepare(file) {
  const digest = await digestOf(file);
  const head = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  const foreign = !READ_BY_SERVICE.test(String.fromCharCode(...head));
  const original = { file, name: file.name || "picture.png", url: "", shrunk: false, unreadable: false, digest, look: null };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { ...original, unreadable: !isTiff(head) }; // browsers show all other formats that the service reads
  }
  try {
    const small = canvasWithin(bitmap, THUMBNAIL);
    const url = URL.createObjectURL(await blobOf(small, "image/webp", 0.8));
    const sent = await reencoded(file, bitmap, head, foreign);
    return { ...original, ...sent, url, look: measure(bitmap) };
  } finally {
    bitmap.close();
  }
}

/**
 * Scale a picture down if it has more pixels than are of use, and encode it anew if its format, such as GIF or HEIC, is
 * foreign to the service. Never scale up; never change one of 16 bits, which a canvas cannot keep.
 */
async function reencoded(file, bitmap, head, foreign) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  if ((scale === 1 && !foreign) || isDeep(head)) return {};
  const canvas = canvasOf(bitmap, scale);
  const lossless = file.type === "image/png" || foreign ? await blobOf(canvas, "image/png") : null;
  const blob = lossless && lossless.size <= MAX_LOSSLESS_BYTES ? lossless : await blobOf(canvas, "image/jpeg", 0.92);
  return blob.size < file.size || foreign ? { file: blob, shrunk: scale < 1 } : {};
}

const isDeep = (head) => head[1] === 0x50 && head[2] === 0x4e && head[24] === 16; // PNG, IHDR's bit depth

const isTiff = ([first, second]) => first === second && (first === 0x49 || first === 0x4d);

/** SHA-256 in hex. Pages that came over plain HTTP from another machine have no `crypto.subtle`; then a 53-bit hash. */
async function digestOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!globalThis.crypto?.subtle) return quickHash(bytes);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function quickHash(bytes) {
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (const byte of bytes) {
    high = Math.imul(high ^ byte, 2654435761);
    low = Math.imul(low ^ byte, 1597334677);
  }
  return `${bytes.length}-${(high >>> 0).toString(16)}${(low >>> 0).toString(16)}`;
}

/** Run so many tasks at a time at most, in the order in which they come. */
function queue(most) {
  const waiting = [];
  let running = 0;
  const next = () => {
    if (running === most || !waiting.length) return;
    running += 1;
    const { task, done, failed } = waiting.shift();
    task()
      .then(done, failed)
      .finally(() => {
        running -= 1;
        next();
      });
  };
  return (task) =>
    new Promise((done, failed) => {
      waiting.push({ task, done, failed });
      next();
    });
}

export const inTurn = queue(AT_ONCE);
