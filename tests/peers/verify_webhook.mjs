// Reads [{secret, headers, payload}] from stdin and prints for each whether npm's standardwebhooks accepts it.
import { Webhook } from "standardwebhooks";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const verdicts = JSON.parse(Buffer.concat(chunks).toString("utf8")).map(({ secret, headers, payload }) => {
  try {
    new Webhook(secret).verify(payload, headers);
    return "";
  } catch (error) {
    return String(error.message || error);
  }
});
console.log(JSON.stringify(verdicts));
