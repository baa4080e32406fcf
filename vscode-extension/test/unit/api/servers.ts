/** Real local servers for the tests of the way to the server: a small gateway, certificates, a proxy. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server as HttpServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import {
  type AddressInfo,
  connect,
  createServer as createTcpServer,
  type Socket,
  type Server as TcpServer,
} from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Options } from "../../../src/api/client";
import type { ProxySources } from "../../../src/api/proxy";

/** No proxy at all. */
export const NO_PROXIES: ProxySources = { setting: "", editor: "", editorNoProxy: [], env: {} };

export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

export type Handler = (seen: Seen, response: ServerResponse, incoming: IncomingMessage) => void | Promise<void>;

export interface Running {
  readonly port: number;
  readonly url: string;
  readonly seen: Seen[];
  /** Connections that were ever opened. */
  readonly sockets: Socket[];
  close(): Promise<void>;
}

export function options(address: string, more: Partial<Options> = {}): Options {
  return { address, key: "", caFile: "", proxy: NO_PROXIES, remoteName: undefined, ...more };
}

/** A server on a port of its own. */
export async function serve(handler: Handler, tls?: { key: string; cert: string }): Promise<Running> {
  const seen: Seen[] = [];
  const listener = async (incoming: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    try {
      for await (const part of incoming) parts.push(part as Buffer);
    } catch {
      return;
    }
    const one = {
      method: incoming.method ?? "",
      url: incoming.url ?? "",
      headers: incoming.headers,
      body: Buffer.concat(parts),
    };
    seen.push(one);
    await handler(one, response, incoming);
  };
  const server = tls === undefined ? createServer(listener) : createSecureServer(tls, listener);
  return await running(server, tls === undefined ? "http" : "https", seen);
}

/** A TCP server that does with a connection what it likes. */
export async function serveRaw(handler: (socket: Socket) => void): Promise<Running> {
  return await running(
    createTcpServer((socket) => {
      socket.on("error", () => {});
      handler(socket);
    }),
    "http",
    [],
  );
}

async function running(server: HttpServer | TcpServer, scheme: string, seen: Seen[]): Promise<Running> {
  const sockets: Socket[] = [];
  server.on("connection", (socket: Socket) => sockets.push(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: `${scheme}://127.0.0.1:${port}`,
    seen,
    sockets,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

export function json(
  response: ServerResponse,
  body: unknown,
  status = 200,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(body));
}

/** An error as the gateway sends it. */
export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  message: string,
  headers: Record<string, string> = {},
): void {
  json(response, { type: "error", error: { message, type: "x", code, param: null } }, status, headers);
}

/** Server-sent events, each in a write of its own. */
export function events(response: ServerResponse, data: readonly unknown[], headers: Record<string, string> = {}): void {
  response.writeHead(200, { "content-type": "text/event-stream", ...headers });
  for (const one of data) response.write(`data: ${typeof one === "string" ? one : JSON.stringify(one)}\n\n`);
  response.end();
}

export interface ModelServer {
  readonly key?: string;
  readonly models?: readonly unknown[];
  readonly ready?: boolean;
  readonly reason?: string;
  readonly fim?: string;
  /** Without the gateway's own routes. */
  readonly plain?: boolean;
  /** Before the first token. */
  readonly delayMs?: number;
}

/** Enough of a gateway, or of plain vLLM, for a check. */
export function modelServer(how: ModelServer = {}): Handler {
  const models = how.models ?? [{ id: "coder", max_model_len: 32768, ready: true }];
  return async (seen, response) => {
    const path = seen.url.replace(/\?.*/, "");
    if (path === "/ready" && !how.plain) {
      const ready = how.ready ?? true;
      return json(response, { ready, reason: how.reason ?? "ready" }, ready ? 200 : 503);
    }
    if (path === "/version") return json(response, { version: "0.11.0" });
    if (how.key !== undefined && path.startsWith("/v1/") && seen.headers.authorization !== `Bearer ${how.key}`) {
      const code = seen.headers.authorization === undefined ? "missing_api_key" : "invalid_api_key";
      return refuse(response, 401, code, "no");
    }
    if (path === "/v1/models") return json(response, { object: "list", data: models });
    if (path === "/v1/completions") {
      const body = JSON.parse(seen.body.toString()) as { suffix?: string };
      if (how.plain && body.suffix !== undefined) {
        return json(
          response,
          { error: { message: "suffix is not currently supported", type: "BadRequestError", code: 400 } },
          400,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, how.delayMs ?? 0));
      const headers = body.suffix === undefined || how.fim === undefined ? {} : { "x-aicockpit-fim": how.fim };
      return events(response, [{ choices: [{ index: 0, text: "a + b", finish_reason: "length" }] }, "[DONE]"], headers);
    }
    return json(response, { detail: "Not Found" }, 404);
  };
}

export interface Pair {
  readonly key: string;
  readonly cert: string;
  readonly file: string;
}

export interface Certificates {
  readonly folder: string;
  readonly selfSigned: Pair;
  readonly otherName: Pair;
  readonly expired: Pair;
  /** Signed by `authority`. */
  readonly signed: Pair;
  readonly authority: string;
}

/** Made by the openssl of this machine; half a second. */
export function makeCertificates(): Certificates {
  const folder = mkdtempSync(join(tmpdir(), "aicockpit-certificates-"));
  const run = (...parts: string[]) => execFileSync("openssl", parts, { cwd: folder, stdio: "pipe" });
  const names = "subjectAltName=DNS:localhost,DNS:gateway.test,IP:127.0.0.1";
  const fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const self = (name: string, alt: string) => {
    run(
      "req",
      "-x509",
      ...fresh,
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.pem`,
      "-days",
      "90",
      "-subj",
      "/CN=test",
      "-addext",
      alt,
    );
    return pair(folder, name);
  };
  self("authority", "basicConstraints=critical,CA:TRUE");
  run("req", ...fresh, "-keyout", "signed.key", "-out", "signed.csr", "-subj", "/CN=gateway");
  writeFileSync(join(folder, "names"), names);
  run(
    "x509",
    "-req",
    "-in",
    "signed.csr",
    "-CA",
    "authority.pem",
    "-CAkey",
    "authority.key",
    "-CAcreateserial",
    "-days",
    "90",
    "-extfile",
    "names",
    "-out",
    "signed.pem",
  );
  run("req", ...fresh, "-keyout", "expired.key", "-out", "expired.csr", "-subj", "/CN=gateway");
  writeFileSync(join(folder, "ca.txt"), "");
  writeFileSync(
    join(folder, "ca.cnf"),
    "[ca]\ndefault_ca=one\n[one]\ndatabase=ca.txt\nnew_certs_dir=.\nserial=ca.serial\ncertificate=authority.pem\nprivate_key=authority.key\ndefault_md=sha256\npolicy=any\ncopy_extensions=copy\nx509_extensions=v3\n[any]\ncommonName=supplied\n[v3]\n" +
      names.replace("=", " = ") +
      "\n",
  );
  writeFileSync(join(folder, "ca.serial"), "1000\n");
  run(
    "ca",
    "-batch",
    "-config",
    "ca.cnf",
    "-in",
    "expired.csr",
    "-out",
    "expired.pem",
    "-notext",
    "-startdate",
    "20200101000000Z",
    "-enddate",
    "20200201000000Z",
  );
  return {
    folder,
    selfSigned: self("self", names),
    otherName: self("other", "subjectAltName=DNS:elsewhere.test"),
    expired: pair(folder, "expired"),
    signed: pair(folder, "signed"),
    authority: join(folder, "authority.pem"),
  };
}

function pair(folder: string, name: string): Pair {
  const file = join(folder, `${name}.pem`);
  return { key: readFileSync(join(folder, `${name}.key`), "utf8"), cert: readFileSync(file, "utf8"), file };
}

export interface ProxyLog extends Running {
  /** `CONNECT host:port` and `GET http://…`, with the credentials that came along. */
  readonly asked: { line: string; authorization: string | undefined }[];
}

/** A forward proxy that takes every name to `target`'s port on this machine. `refuse`: the status it answers with instead. */
export async function serveProxy(
  target: Running,
  refusal?: { status: number; credentials?: string },
): Promise<ProxyLog> {
  const asked: ProxyLog["asked"] = [];
  const refused = (authorization: string | undefined) =>
    refusal !== undefined &&
    (refusal.credentials === undefined ||
      authorization !== `Basic ${Buffer.from(refusal.credentials).toString("base64")}`);
  const server = createServer((incoming, response) => {
    const authorization = incoming.headers["proxy-authorization"];
    asked.push({ line: `${incoming.method} ${incoming.url}`, authorization });
    if (refused(authorization)) {
      response.writeHead(refusal?.status ?? 500, { "content-type": "text/html" });
      return void response.end("<html>proxy says no</html>");
    }
    const url = new URL(incoming.url ?? "");
    const onward = request(
      {
        host: "127.0.0.1",
        port: target.port,
        method: incoming.method,
        path: url.pathname + url.search,
        headers: incoming.headers,
      },
      (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    incoming.pipe(onward);
  });
  server.on("connect", (incoming: IncomingMessage, socket: Socket) => {
    const authorization = incoming.headers["proxy-authorization"];
    asked.push({ line: `CONNECT ${incoming.url}`, authorization });
    if (refused(authorization)) return void socket.end(`HTTP/1.1 ${refusal?.status} No\r\ncontent-length: 0\r\n\r\n`);
    const onward = connect(target.port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    for (const one of [onward, socket]) one.on("error", () => one.destroy());
    socket.on("close", () => onward.destroy());
  });
  return { ...(await running(server, "http", [])), asked };
}
