// Calls `upper` of a broker that asks for keys: node curve_client.mjs ENDPOINT BROKER.key.pub OWN.key
import { readFileSync } from "node:fs"
import * as zmq from "zeromq"

const [endpoint, serverFile, keyFile] = process.argv.slice(2)
const key = (file) => readFileSync(file, "utf8").trim()
const client = new zmq.Request({
  linger: 0,
  receiveTimeout: 5000,
  curveServerKey: key(serverFile),
  curveSecretKey: key(keyFile),
  curvePublicKey: key(`${keyFile}.pub`),
})
client.connect(endpoint)
await client.send(["MDPC01", "upper", "hello"])
const [, , ...reply] = await client.receive()
console.log(reply.map(String).join(""))
client.close()
