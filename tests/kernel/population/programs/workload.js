// A Node program that checks itself: STOP. See workloads.c for what it prints.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");

const stop = process.argv[2];
let rounds = 0;

function broken(what) {
  fs.writeSync(1, `broken ${what}\n`);
  process.exit(1);
}
process.on("uncaughtException", (error) => broken(error.stack));

const digest = (data) => crypto.createHash("sha256").update(data).digest("hex");

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => response.end(digest(Buffer.concat(parts))));
});

// On a machine that stands still for a while, a client would write to a connection that the server
// has just closed because nothing came.
server.keepAliveTimeout = 0;

function ask(agent, port) {
  const body = crypto.randomBytes(1 + Math.floor(Math.random() * 100000));
  return new Promise((resolve) => {
    const options = { port, host: "127.0.0.1", method: "POST", agent };
    const request = http.request(options, (response) => {
      let text = "";
      response.on("data", (part) => (text += part));
      response.on("end", () => {
        if (text !== digest(body)) broken(`answer ${text}`);
        rounds++;
        resolve();
      });
    });
    request.on("error", (error) => broken(`request: ${error}`));
    request.end(body);
  });
}

async function client(port) {
  const agent = new http.Agent({ keepAlive: true });
  while (!fs.existsSync(stop)) {
    await ask(agent, port);
    await rest(Math.floor(Math.random() * 5));
  }
  agent.destroy();
}

/** A timer of Node may be early by less than a millisecond, since it counts in whole ones. */
function rest(milliseconds) {
  const start = process.hrtime.bigint();
  return new Promise((resolve) => {
    setTimeout(() => {
      const passed = Number(process.hrtime.bigint() - start) / 1e6;
      if (passed < milliseconds - 1) broken(`a timer of ${milliseconds} ms came after ${passed}`);
      resolve();
    }, milliseconds);
  });
}

/** Work of the thread pool: its threads wait in futex. */
async function pool() {
  const once = () =>
    new Promise((resolve) =>
      crypto.pbkdf2("word", "salt", 200, 32, "sha256", (error, key) =>
        resolve(error ? broken(error) : key.toString("hex")),
      ),
    );
  const expected = await once();
  while (!fs.existsSync(stop)) {
    if ((await once()) !== expected) broken("another key");
    await rest(10);
  }
}

server.listen(0, "127.0.0.1", async () => {
  console.log("ready");
  const { port } = server.address();
  await Promise.all([client(port), client(port), pool()]);
  server.close();
  console.log(`whole ${rounds}`);
});
