/** The name of a content: xxh3-128 as 32 hex digits, as the server computes it. */

// The package as a whole would be half of the bundle.
import parts from "hash-wasm/dist/xxhash128.umd.min.js";

export type Hash = (data: Uint8Array) => string;

/** Loads the WebAssembly once; the function that comes back is synchronous, about a gigabyte a second. */
export async function createHash(): Promise<Hash> {
  const hasher = await parts.createXXHash128();
  return (data) => {
    hasher.init();
    hasher.update(data);
    return hasher.digest("hex");
  };
}
