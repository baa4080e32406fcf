// The real gateway in front of the fake engine, whose answers a script tells. Both are started by hand here, from Python.
import { execFile, spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { EXTENSION, freePort, until } from "./harness.mjs";

export const KEY = "key-of-the-workbench-tests";
const ROOT = path.resolve(EXTENSION, "..");
const PYTHON = process.env.PYTHON ?? path.join(ROOT, ".venv/bin/python");

export class Server {
  constructor(run) {
    this.run = run;
    this.script = `${run}/script.json`;
    this.children = [];
  }
  /** What the model says: pairs of a regex on the prompt's text and the answer. */
  answers(pairs) {
    fs.writeFileSync(
      `${this.script}.new`,
      JSON.stringify({ tokenizer: `${this.run}/model/tokenizer.json`, answers: pairs }),
    );
    fs.renameSync(`${this.script}.new`, this.script);
  }
  async startEngine() {
    fs.mkdirSync(`${this.run}/model`, { recursive: true });
    const make = [
      "import sys; sys.path.insert(0, sys.argv[1]); from tiny_tokenizers import byte_level; from pathlib import Path",
      'tokens = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|repo_name|>", "<|file_sep|>")',
      "Path(sys.argv[2]).write_bytes(byte_level(tokens))",
    ].join("\n");
    await this.#finish(["-c", make, `${ROOT}/tests`, `${this.run}/model/tokenizer.json`]);
    this.enginePort = await freePort();
    const flags = [
      "--model",
      "fake",
      "--host",
      "127.0.0.1",
      "--port",
      String(this.enginePort),
      "--served-model-name",
      "fake",
    ];
    const more = ["--block-size", "16", "--enable-prompt-tokens-details", "--fake-script", this.script];
    this.engine = this.#spawn([`${ROOT}/tests/fake_vllm.py`, ...flags, ...more], "engine.log");
    await until(() => this.#ok(`http://127.0.0.1:${this.enginePort}/health`), "the engine answers", 30_000);
  }
  async startGateway() {
    this.port ??= await freePort();
    const env = {
      ...process.env,
      AICOCKPIT_STATE_DIR: `${this.run}/state`,
      AICOCKPIT_PORT: String(this.port),
      AICOCKPIT_API_KEY: KEY,
      AICOCKPIT_ENGINE_URLS: `http://127.0.0.1:${this.enginePort}`,
      AICOCKPIT_TOKENIZERS: `fake=${this.run}/model`,
      AICOCKPIT_CONTEXT: "900",
      AICOCKPIT_CHECK_PERIOD: "1",
    };
    this.gateway = this.#spawn(["-m", "aicockpit.cli", "serve"], "serve.log", env);
    await until(() => this.#ok(`${this.url}/ready`), "the gateway is ready", 60_000);
  }
  get url() {
    return `http://127.0.0.1:${this.port}`;
  }
  async get(route, key = KEY) {
    const answer = await fetch(this.url + route, { headers: { authorization: `Bearer ${key}` } });
    return answer.json();
  }
  /** A key without the rights of an admin. */
  async makeKey(name) {
    const env = { ...process.env, AICOCKPIT_STATE_DIR: `${this.run}/state` };
    const { stdout } = await promisify(execFile)(PYTHON, ["-m", "aicockpit.cli", "keys", "create", name], { env });
    return /aick_\S+/.exec(stdout)[0];
  }
  async engineState() {
    return (await fetch(`http://127.0.0.1:${this.enginePort}/fake/state`)).json();
  }
  async engineSet(values) {
    await fetch(`http://127.0.0.1:${this.enginePort}/fake/set`, { method: "POST", body: JSON.stringify(values) });
  }
  async lastRequest(route) {
    return (await fetch(`http://127.0.0.1:${this.enginePort}/fake/last?path=${route}`)).json();
  }
  async stopGateway() {
    await this.#end(this.gateway);
  }
  async stop() {
    for (const child of [...this.children].reverse()) await this.#end(child);
  }
  #spawn(words, log, env = process.env) {
    const out = fs.openSync(`${this.run}/${log}`, "a");
    const child = spawn(PYTHON, words, { env, stdio: ["ignore", out, out] });
    child.gone = new Promise((done) => child.on("exit", done));
    this.children.push(child);
    return child;
  }
  async #finish(words) {
    const child = this.#spawn(words, "make.log");
    if ((await child.gone) !== 0) throw new Error(fs.readFileSync(`${this.run}/make.log`, "utf8"));
  }
  async #end(child) {
    if (!child || child.exitCode !== null) return;
    child.kill("SIGINT");
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await child.gone;
    clearTimeout(timer);
  }
  async #ok(url) {
    return (await fetch(url, { headers: { authorization: `Bearer ${KEY}` } })).ok;
  }
}
