/** Reads zip files in the browser, so that their pictures can be looked at and sent in several requests. */

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const MAX_ENTRY_BYTES = 64 * 1024 * 1024;

/**
 * Return the wanted files of a zip file.
 * @param {File} zip
 * @param {(path: string) => boolean} wanted
 * @returns {Promise<{file: File, path: string}[]>}
 * @throws {Error} not a zip file, or one with a form that is not supported
 */
export async function readZip(zip, wanted) {
  const found = [];
  for (const entry of await directory(zip)) {
    if (entry.size > MAX_ENTRY_BYTES || entry.encrypted || !wanted(entry.path)) continue;
    const content = await read(zip, entry);
    const name = entry.path.split("/").at(-1);
    found.push({ path: entry.path, file: new File([content], name, { type: mediaType(name) }) });
  }
  return found;
}

async function directory(zip) {
  const tail = await view(zip, Math.max(0, zip.size - 65_557), zip.size);
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("not a zip file");
  const count = tail.getUint16(end + 10, true);
  const start = tail.getUint32(end + 16, true);
  const records = await view(zip, start, start + tail.getUint32(end + 12, true));
  const entries = [];
  for (let at = 0; entries.length < count && records.getUint32(at, true) === CENTRAL; ) {
    const nameBytes = records.getUint16(at + 28, true);
    entries.push({
      encrypted: Boolean(records.getUint16(at + 8, true) & 1),
      method: records.getUint16(at + 10, true),
      compressed: records.getUint32(at + 20, true),
      size: records.getUint32(at + 24, true),
      offset: records.getUint32(at + 42, true),
      path: text(new Uint8Array(records.buffer, at + 46, nameBytes)).replaceAll("\\", "/"),
    });
    at += 46 + nameBytes + records.getUint16(at + 30, true) + records.getUint16(at + 32, true);
  }
  return entries;
}

async function read(zip, entry) {
  const local = await view(zip, entry.offset, entry.offset + 30);
  const start = entry.offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const content = zip.slice(start, start + entry.compressed);
  if (entry.method === 0) return content;
  if (entry.method !== 8) throw new Error(`compression method ${entry.method}`);
  return new Response(content.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
}

const view = async (blob, from, to) => new DataView(await blob.slice(from, to).arrayBuffer());

function text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("gb18030").decode(bytes);
  }
}

const TYPES = { png: "image/png", webp: "image/webp", bmp: "image/bmp", gif: "image/gif", tif: "image/tiff", tiff: "image/tiff" };
const mediaType = (name) => TYPES[name.split(".").at(-1).toLowerCase()] ?? "image/jpeg";
