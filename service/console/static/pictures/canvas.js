/** Scaling and encoding with a canvas. */

/** Draw a bitmap or a frame of a video, scaled by halves first so that fine detail is averaged and not skipped. */
export function canvasOf(source, scale) {
  let [width, height] = sizeOf(source);
  let drawn = source;
  const target = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  do {
    width = Math.max(target[0], Math.ceil(width / 2));
    height = Math.max(target[1], Math.ceil(height / 2));
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(drawn, 0, 0, width, height);
    drawn = canvas;
  } while (width > target[0] || height > target[1]);
  return drawn;
}

/** Draw it so that its longest side has at most so many pixels. */
export const canvasWithin = (source, longest) => canvasOf(source, Math.min(1, longest / Math.max(...sizeOf(source))));

const sizeOf = (source) => [source.videoWidth ?? source.width, source.videoHeight ?? source.height];

export const blobOf = (canvas, type, quality) => new Promise((done) => canvas.toBlob(done, type, quality));
