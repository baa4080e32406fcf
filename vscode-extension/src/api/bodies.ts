/** Bodies that can be large, made in pieces: the editor's extension host is never blocked for long. */

import { promisify } from "node:util";
import { constants, gzip } from "node:zlib";
import { Breath } from "./breath";
import type { ManifestFile } from "./gateway";

const pack = promisify(gzip);

/** The JSON of a manifest. Written by hand: nanoseconds are more than a JavaScript number holds. */
export async function manifestBody(
  base: number | null,
  files: readonly ManifestFile[],
  removed: readonly string[],
): Promise<Buffer> {
  const breath = new Breath();
  const pieces: Buffer[] = [];
  let text = `{"base":${base},"files":[`;
  let comma = "";
  for (const [path, hash, size, mtimeNs] of files) {
    text += `${comma}[${JSON.stringify(path)},"${hash}",${size},${mtimeNs}]`;
    comma = ",";
    if (!breath.due()) continue;
    pieces.push(Buffer.from(text));
    text = "";
    await breath.take();
  }
  pieces.push(Buffer.from(`${text}],"removed":${JSON.stringify(removed)}}`));
  return Buffer.concat(pieces);
}

/** Contents as the gateway takes them: 16 bytes of hash, 4 bytes of length (big-endian), content, one after another. */
export function frames(contents: readonly { hash: string; content: Uint8Array }[]): Buffer {
  return Buffer.concat(
    contents.flatMap(({ hash, content }) => {
      const head = Buffer.alloc(20);
      if (head.write(hash, 0, 16, "hex") !== 16) throw new Error(`“${hash}” is no hash of 32 hexadecimal digits`);
      head.writeUInt32BE(content.length, 16);
      return [head, content];
    }),
  );
}

/** For `content-encoding: gzip`; another thread's work. */
export const packed = (body: Buffer): Promise<Buffer> => pack(body, { level: constants.Z_BEST_SPEED });
