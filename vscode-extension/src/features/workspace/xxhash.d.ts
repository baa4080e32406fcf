/** The one algorithm out of `hash-wasm`, which has no types of its own. */
declare module "hash-wasm/dist/xxhash128.umd.min.js" {
  const parts: Pick<typeof import("hash-wasm"), "createXXHash128">;
  export default parts;
}
