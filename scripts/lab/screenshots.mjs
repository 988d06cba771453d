// Enrols the hosts of the lab, waits while they are read, and photographs the pages. Run by scripts/screenshots.sh.
//
//   node screenshots.mjs DIRECTORY SECONDS_OF_READINGS LAB_SH

import { execFileSync } from "node:child_process";
import path from "node:path";
import { Browser, Roundsman, eventually, publicKey, setUp } from "../../tests/browser/harness.js";

const [directory, secondsText, lab] = process.argv.slice(2);
const seconds = Number(secondsText);
const WIDE = { viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1.5 };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
// From here on a whole range on offer is filled with readings.
const QUARTER_S = 15 * 60;
const HOSTS = [
  { name: "lab-1", environment: "production", tags: ["web", "worker"], description: "Web server and worker of the lab" },
  { name: "lab-2", environment: "production", tags: ["web", "worker"], description: "The same once more" },
  { name: "lab-3", environment: "staging", tags: ["worker"], description: "Where things are tried first" },
];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const onHost = (name, command) => execFileSync(lab, ["ssh", name, command], { encoding: "utf8" });

/** Every host reads its own page a few times a second, and lab-3 has a unit that failed: something to look at. */
function liven() {
  const visits = `while :; do busybox wget -q -O /dev/null http://127.0.0.1:8080/; sleep 0.3; done`;
  for (const { name } of HOSTS) {
    onHost(name, `systemctl stop lab-visitor 2>/dev/null; systemctl reset-failed; systemd-run --quiet --unit=lab-visitor sh -c '${visits}'`);
  }
  onHost("lab-3", "systemd-run --quiet --unit=nightly-report --description='Nightly report' false");
}

function calm() {
  for (const { name } of HOSTS) onHost(name, "systemctl stop lab-visitor; systemctl reset-failed");
}

function enrol(roundsman) {
  const up = ["up", String(HOSTS.length), "--authorize", publicKey(roundsman)];
  const lines = execFileSync(lab, up, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  const addresses = new Map([...lines.matchAll(/add (root@\S+) --name (\S+)/g)].map(([, address, name]) => [name, address]));
  for (const { name, environment, tags, description } of HOSTS) {
    const more = ["--region", "lab", "--environment", environment, "--description", description, ...tags.flatMap((tag) => ["--tag", tag])];
    roundsman.run("add", addresses.get(name), "--name", name, "--accept-new", ...more);
  }
}

async function shoot(browser, cookies, name, address, options) {
  const profile = await browser.profile({ locale: "en-GB", timezoneId: "UTC", ...options });
  await profile.addCookies(cookies);
  const page = await profile.newPage();
  await page.goto(address);
  if (await page.locator("body[data-live]").count()) await page.locator("#live-state[data-state=live]").waitFor();
  if (address.includes("/metrics")) await page.locator("figure.chart canvas").first().waitFor();
  // Sparklines and live figures arrive with the next readings.
  await pause(3000);
  await page.screenshot({ path: path.join(directory, `${name}.png`) });
  await profile.close();
}

const roundsman = new Roundsman();
let browser;
try {
  await roundsman.start();
  enrol(roundsman);
  liven();
  browser = await Browser.launch();
  const profile = await browser.profile();
  const page = await profile.newPage();
  await setUp(page, roundsman);
  const cookies = await profile.cookies();
  await profile.close();
  const started = Date.now();
  console.error(`Reading the hosts for ${seconds} s ...`);
  await pause(seconds * 1000);
  await eventually("lab-3 is degraded by its failed unit", () => JSON.parse(roundsman.run("show", "lab-3", "--json")).health_status === "degraded");
  const range = seconds >= QUARTER_S ? "range=15m" : `from=${started}&to=${Date.now()}`;
  const at = (place) => `${roundsman.url}${place}`;
  await shoot(browser, cookies, "fleet-dark", at("/"), { ...WIDE, colorScheme: "dark" });
  await shoot(browser, cookies, "fleet-light", at("/"), { ...WIDE, colorScheme: "light" });
  await shoot(browser, cookies, "server-overview", at("/servers/lab-1"), { ...WIDE, colorScheme: "light" });
  await shoot(browser, cookies, "server-metrics", at(`/servers/lab-1/metrics?${range}`), { ...WIDE, colorScheme: "dark" });
  // One host answers differently, which is what the page of an operation is about.
  onHost("lab-3", "echo 1.9.3 >/etc/shop-version");
  for (const name of ["lab-1", "lab-2"]) onHost(name, "echo 1.9.4 >/etc/shop-version");
  const asked = ["exec", "--tag", "worker", "--batch", "1,100%", "--", "echo shop; cat /etc/shop-version; echo ready"];
  roundsman.run(...asked);
  const [{ id }] = JSON.parse(roundsman.run("op", "list", "--json"));
  await shoot(browser, cookies, "operation", at(`/operations/${id}`), { ...WIDE, colorScheme: "light" });
  await shoot(browser, cookies, "phone", at("/servers/lab-3"), { ...PHONE, colorScheme: "dark" });
  browser.assertQuiet();
} finally {
  await browser?.close();
  await roundsman.remove();
  calm();
}
