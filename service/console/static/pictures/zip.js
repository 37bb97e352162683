/** Reads zip files in the browser, so that their pictures can be looked at and sent in several requests. */

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const MAX_ENTRY_BYTES = 64 * 1024 * 1024;
const MAX_BYTES = 2 * 1024 * 1024 * 1024;

/**
 * @typedef {"picture" | "encrypted" | "empty" | "large" | "damaged"} Reason why a file is left out; "picture": it is none
 */

/**
 * Return the pictures of a zip file, and the files that are left out.
 * @param {File} zip
 * @param {(path: string) => boolean} isPicture
 * @param {(path: string) => boolean} isClutter files that are not worth a word
 * @returns {Promise<{found: {file: File, path: string}[], left: {path: string, reason: Reason}[]}>}
 * @throws {Error} not a zip file, or one whose list of files is damaged
 */
export async function readZip(zip, isPicture, isClutter) {
  const found = [];
  const left = [];
  let total = 0;
  for (const entry of await directory(zip)) {
    if (entry.path.endsWith("/") || isClutter(entry.path)) continue;
    const leave = (reason) => left.push({ path: entry.path, reason });
    if (!isPicture(entry.path)) leave("picture");
    else if (entry.encrypted) leave("encrypted");
    else if (!entry.size) leave("empty");
    else if (entry.size > MAX_ENTRY_BYTES || total + entry.size > MAX_BYTES) leave("large");
    else {
      const content = await read(zip, entry).catch(() => null);
      if (!content) {
        leave("damaged");
        continue;
      }
      total += entry.size;
      const name = entry.path.split("/").at(-1);
      found.push({ path: entry.path, file: new File([content], name, { type: mediaType(name) }) });
    }
  }
  return { found, left };
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
  if (entry.method !== 0 && entry.method !== 8) throw new Error(`compression method ${entry.method}`);
  const unpacked = entry.method === 8 ? await inflate(content, entry.size) : content;
  if (unpacked.size !== entry.size) throw new Error("its size is not the one that is declared");
  return unpacked;
}

/** Unpack, but stop after the declared size, because more may come than memory holds. */
async function inflate(content, size) {
  const reader = content.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  for (let bytes = 0; bytes <= size; ) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts);
    parts.push(value);
    bytes += value.length;
  }
  await reader.cancel();
  throw new Error("it has more bytes than it declares");
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
