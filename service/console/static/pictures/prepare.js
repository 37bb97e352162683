/** Makes a picture ready: its thumbnail, what to send, its digest, and what the sample doctor measures. */

import { blobOf, canvasOf, canvasWithin } from "./canvas.js";
import { measure } from "./doctor.js";

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
 * @property {string} digest of the file as it was chosen
 * @property {import("./doctor.js").Look | null} look
 */

/**
 * @param {File} file
 * @returns {Promise<Prepared>}
 */
export async function prepare(file) {
  const digest = await digestOf(file);
  const original = { file, name: file.name || "picture.png", url: "", shrunk: false, digest, look: null };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return original; // TIFF, for example: the service reads it
  }
  try {
    const small = canvasWithin(bitmap, THUMBNAIL);
    const url = URL.createObjectURL(await blobOf(small, "image/webp", 0.8));
    const sent = await shrunken(file, bitmap);
    return { ...original, ...sent, url, look: measure(bitmap) };
  } finally {
    bitmap.close();
  }
}

/** Scale a picture down if it has more pixels than are of use. Never up; never one of 16 bits, which a canvas cannot keep. */
async function shrunken(file, bitmap) {
  const scale = Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height));
  if (scale >= 1 || (await isDeep(file))) return {};
  const canvas = canvasOf(bitmap, scale);
  const lossless = file.type === "image/png" ? await blobOf(canvas, "image/png") : null;
  const blob = lossless && lossless.size <= MAX_LOSSLESS_BYTES ? lossless : await blobOf(canvas, "image/jpeg", 0.92);
  return blob.size < file.size ? { file: blob, shrunk: true } : {};
}

async function isDeep(file) {
  const head = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  return head[1] === 0x50 && head[2] === 0x4e && head[24] === 16; // PNG, IHDR's bit depth
}

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
