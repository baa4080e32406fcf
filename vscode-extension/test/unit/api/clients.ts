/** A client at a server of its own, for tests of the calls. */

import { expect } from "vitest";
import { type Client, createGateway } from "../../../src/api/client";
import { Fault } from "../../../src/api/fault";
import { Http } from "../../../src/api/http";
import { type Handler, json, options, type Running, serve } from "./servers";

export interface Closable {
  close(): Promise<void>;
}

/** Both are put on `open`, which the test closes. */
export async function gatewayAt(
  open: Closable[],
  handler: Handler,
  key = "k",
): Promise<{ server: Running; client: Client }> {
  const server = await serve(handler);
  const http = new Http();
  open.push(server, { close: async () => http.dispose() });
  return { server, client: createGateway(() => options(server.url, { key }), http) };
}

/** The same answer to everything. */
export function always(body: unknown, status = 200): Handler {
  return (_, response) => json(response, body, status);
}

/** The JSON that came with a request. */
export function bodyOf(server: Running, at = 0): unknown {
  return JSON.parse(server.seen[at]?.body.toString() ?? "");
}

/** The Fault that this must end with. */
export async function fault(work: Promise<unknown>): Promise<Fault> {
  const error = await work.catch((found: unknown) => found);
  expect(error).toBeInstanceOf(Fault);
  return error as Fault;
}
