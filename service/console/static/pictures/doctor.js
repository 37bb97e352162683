/**
 * The sample doctor: looks at pictures before they are sent and marks those that are worth a second look.
 *
 * It compares a picture with the others of its class, because a dark or a soft picture may be right where all are. A
 * mark never blocks anything.
 */

import { canvasWithin } from "./canvas.js";

const SIDE = 256;
const FEWEST = 5;
const BLURRED = 0.3;
const OFF = 3;
const GRID = 4;
const BINS = 12;

/**
 * @typedef {object} Look
 * @property {number} sharpness variance of the Laplacian
 * @property {number} light mean grey value, 0 to 255
 * @property {number} dark share of pixels that are black
 * @property {number} bright share of pixels that are white
 * @property {number[]} features colours by place, and the histogram
 */

/**
 * @param {ImageBitmap} bitmap
 * @returns {Look}
 */
export function measure(bitmap) {
  const canvas = canvasWithin(bitmap, SIDE);
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Float32Array(width * height);
  const grid = new Float64Array(GRID * GRID * 3);
  const histogram = new Float64Array(BINS);
  let dark = 0;
  let bright = 0;
  let sum = 0;
  for (let pixel = 0; pixel < grey.length; pixel += 1) {
    const [r, g, b] = [data[4 * pixel], data[4 * pixel + 1], data[4 * pixel + 2]];
    const light = 0.299 * r + 0.587 * g + 0.114 * b;
    grey[pixel] = light;
    sum += light;
    if (light < 6) dark += 1;
    if (light > 249) bright += 1;
    histogram[Math.min(BINS - 1, Math.floor((light * BINS) / 256))] += 1;
    const row = Math.floor((Math.floor(pixel / width) * GRID) / height);
    const cell = 3 * (row * GRID + Math.floor(((pixel % width) * GRID) / width));
    grid[cell] += r;
    grid[cell + 1] += g;
    grid[cell + 2] += b;
  }
  const count = grey.length;
  const cellPixels = (count / (GRID * GRID)) * 255;
  return {
    sharpness: variance(laplacian(grey, width, height)),
    light: sum / count,
    dark: dark / count,
    bright: bright / count,
    features: [...Array.from(grid, (value) => value / cellPixels), ...Array.from(histogram, (value) => value / count)],
  };
}

function laplacian(grey, width, height) {
  const edges = new Float32Array(Math.max(0, (width - 2) * (height - 2)));
  let at = 0;
  for (let y = 1; y < height - 1; y += 1) {
    for (let x = 1; x < width - 1; x += 1) {
      const here = y * width + x;
      edges[at++] = 4 * grey[here] - grey[here - 1] - grey[here + 1] - grey[here - width] - grey[here + width];
    }
  }
  return edges;
}

function variance(values) {
  if (!values.length) return 0;
  let sum = 0;
  let squares = 0;
  for (const value of values) {
    sum += value;
    squares += value * value;
  }
  return squares / values.length - (sum / values.length) ** 2;
}

/**
 * Mark pictures.
 * @param {{id: number, group: number, digest: string, unreadable: boolean, look: Look | null}[]} pictures
 * @returns {Map<number, string[]>} the marks of each picture that has some: unreadable, blurred, dark, bright, twice, both, off
 */
export function examine(pictures) {
  const marks = new Map();
  const mark = (picture, name) => marks.set(picture.id, [...(marks.get(picture.id) ?? []), name]);
  for (const picture of pictures) if (picture.unreadable) mark(picture, "unreadable");
  markTwins(pictures, mark);
  const seen = pictures.filter((picture) => picture.look);
  const all = typical(seen);
  for (const group of new Set(seen.map((picture) => picture.group))) {
    const members = seen.filter((picture) => picture.group === group);
    const typicalHere = members.length >= FEWEST ? typical(members) : all;
    for (const picture of members) {
      const { sharpness, light, dark, bright } = picture.look;
      if (seen.length >= FEWEST && sharpness < BLURRED * typicalHere.sharpness) mark(picture, "blurred");
      if (dark > 0.97 || light < Math.min(45, 0.5 * typicalHere.light)) mark(picture, "dark");
      if (bright > 0.97 || (bright > 0.4 && bright > typicalHere.bright + 0.3)) mark(picture, "bright");
    }
    if (members.length > FEWEST) markOff(members, mark);
  }
  return marks;
}

function markTwins(pictures, mark) {
  const first = new Map();
  for (const picture of pictures) {
    const earlier = first.get(picture.digest);
    if (earlier === undefined) first.set(picture.digest, picture);
    else mark(picture, earlier.group === picture.group ? "twice" : "both");
  }
}

const typical = (pictures) => ({
  sharpness: median(pictures.map(({ look }) => look.sharpness)),
  light: median(pictures.map(({ look }) => look.light)),
  bright: median(pictures.map(({ look }) => look.bright)),
});

function markOff(members, mark) {
  const centre = members[0].look.features.map((_, index) => median(members.map(({ look }) => look.features[index])));
  const distances = members.map(({ look }) => Math.hypot(...look.features.map((value, index) => value - centre[index])));
  const usual = Math.max(median(distances), 0.08);
  members.forEach((picture, index) => {
    if (distances[index] > OFF * usual) mark(picture, "off");
  });
}

function median(values) {
  if (!values.length) return 0;
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)];
}
