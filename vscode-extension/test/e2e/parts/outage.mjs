// The server goes away and comes back: said in the status bar, nothing lost, nothing to click.
import { until } from "../harness.mjs";

export default async function play({ desk, server, step }) {
  await step("a server that is gone is told", async () => {
    await server.stopGateway();
    await desk.file("notes.md");
    await desk.keys("Control+End");
    await desk.type("some words");
    await desk.untilStatus(/offline/, 60_000);
    await desk.picture("status-offline");
  });
  await step("it is found again by itself", async () => {
    await server.startGateway();
    await desk.untilStatus(/ready|cold|warm/, 60_000);
    await desk.file("main.py");
    await desk.keys("Control+End", "Enter", "Enter", "Home");
    await desk.type("def sub(a, b):");
    await desk.untilGhost(/return a - b/, 20_000);
    await desk.keys("Escape", "Control+Z");
    await until(async () => (await desk.ghost()).trim() === "", "no ghost text");
    await desk.untilStatus(/: warm(?!ing)/, 60_000);
  });
}
