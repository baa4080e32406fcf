// From nothing to ready: no key, a wrong key, the right key; then the folder is synced and becomes warm.
import { until } from "../harness.mjs";
import { KEY } from "../server.mjs";

export async function enterKey(desk, key) {
  await desk.command("AiCockpit: Enter the Key");
  const input = desk.page.locator('.quick-input-widget input[type="password"]').first();
  await input.waitFor({ state: "visible" });
  await input.fill(key);
  await desk.keys("Enter");
}

export default async function play({ desk, server, step, assert }) {
  await step("without a key the status bar offers to set up", async () => {
    await desk.untilStatus(/set up/i);
    await desk.picture("status-set-up");
  });
  await step("a wrong key is told as such", async () => {
    await enterKey(desk, "aick_00000000_wrong");
    await desk.untilStatus(/unauthorised/);
    await desk.page.getByText("Try again").first().waitFor();
    await desk.picture("status-wrong-key");
    await desk.keys("Escape");
  });
  await step("the right key is enough", async () => {
    await enterKey(desk, KEY);
    await desk.untilStatus(/ready|cold|warm/i);
  });
  await step("it offers to keep the folder warm, once", async () => {
    const question = desk.page.locator(".notification-toast", { hasText: /warm/i }).first();
    await question.waitFor({ timeout: 20_000 });
    await desk.picture("ask-to-sync");
    await question.getByText("Yes", { exact: true }).click();
  });
  await step("the folder is at the server, and warm", async () => {
    const { workspaces } = await until(
      async () => {
        const found = await server.get("/api/workspaces");
        return found.workspaces.some((one) => one.files >= 4) && found;
      },
      "four files at the server",
      30_000,
    );
    assert.equal(workspaces.length, 1);
    await desk.untilStatus(/warm\b/i, 60_000);
    await desk.picture("status-warm");
  });
}
