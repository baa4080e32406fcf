import { describe, expect, it } from "vitest";
import {
  isLoopback,
  isPrivate,
  machineOf,
  normalAddress,
  otherMachine,
  portOf,
  shownAddress,
} from "../../../src/api/address";
import { Fault } from "../../../src/api/fault";

describe("an address", () => {
  it.each([
    ["http://127.0.0.1:8000", "http://127.0.0.1:8000"],
    ["  gpu-box:8000 ", "http://gpu-box:8000"],
    ["HTTPS://Gpu.Example.ORG:443/v1/", "https://gpu.example.org"],
    ["http://host/aicockpit/v1", "http://host/aicockpit"],
    ["http://host:80//", "http://host"],
    ["[::1]:8000/v1", "http://[::1]:8000"],
    ["http://host/?x=1#y", "http://host"],
  ])("%s is spelled %s", (written, spelled) => {
    expect(normalAddress(written)).toBe(spelled);
  });

  it.each(["", "   ", "http://", "ftp://host", "http://user:hunter2@host", "http://a b", "http://host:99999"])(
    "%j is refused with a fix",
    (written) => {
      expect(() => normalAddress(written)).toThrow(Fault);
      try {
        normalAddress(written);
      } catch (error) {
        expect(error).toMatchObject({ kind: "bad_request", code: "bad_address" });
        expect((error as Fault).message).not.toContain("hunter2");
      }
    },
  );

  it("has the port that its scheme implies", () => {
    expect([portOf(new URL("http://a")), portOf(new URL("https://a")), portOf(new URL("http://a:81"))]).toEqual([
      80, 443, 81,
    ]);
  });
});

describe("this machine's own addresses", () => {
  it.each([
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "0.0.0.0",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
  ])("%s is one", (host) => expect(isLoopback(host)).toBe(true));

  it.each(["example.org", "10.0.0.1", "128.0.0.1", "notlocalhost", "fe80::1", "localhost.example.org"])(
    "%s is none",
    (host) => expect(isLoopback(host)).toBe(false),
  );
});

it("says on which machine localhost is, and how the other is reached", () => {
  expect(machineOf(undefined)).toBe("this machine");
  expect(otherMachine(undefined, 8000)).toBe("");
  for (const [name, word, way] of [
    ["ssh-remote", "SSH", "ssh -R 8001:127.0.0.1:8001"],
    ["wsl", "WSL", "mirrored"],
    ["dev-container", "container", "http://host.docker.internal:8001"],
    ["codespaces", "codespace", "reach"],
    ["tunnel", "tunnel", "reach"],
    ["example.org:8080", "editor's server", "reach"],
  ] as const) {
    expect(machineOf(name)).toContain(word);
    expect(otherMachine(name, 8001)).toContain(way);
  }
});

it.each([
  ["https://gpu.example.org", true],
  ["http://127.0.0.1:8000", true],
  ["http://localhost", true],
  ["http://gpu.example.org:8000", false],
  ["http://10.0.0.7", false],
])("nobody on the way reads what goes to %s: %s", (address, is) => {
  expect(isPrivate(address)).toBe(is);
});

it("shows no password that was written into an address", () => {
  expect(shownAddress("https://me:secret@host/x")).toBe("https://…@host/x");
  expect(shownAddress("http://host:8000/a@b")).toBe("http://host:8000/a@b");
});
