// Submits one message by nodemailer: node send.cjs '{"host": ..., "port": ..., "user": ..., ...}'
// "file" is sent as it is, with REQUIRETLS; "message" is what nodemailer makes a message of. "secure": TLS at once.
const nodemailer = require("nodemailer");
const fs = require("node:fs");

const options = JSON.parse(process.argv[2]);
const transport = nodemailer.createTransport({
  host: options.host,
  port: options.port,
  secure: Boolean(options.secure),
  requireTLS: !options.secure,
  tls: { ca: fs.readFileSync(options.ca), servername: options.name },
  auth: { user: options.user, pass: options.password },
});
transport
  .sendMail({
    envelope: { from: options.from, to: options.to },
    ...(options.message || { raw: fs.readFileSync(options.file), requireTLSExtensionEnabled: true }),
  })
  .then((info) => console.log(info.response))
  .catch((error) => {
    console.error(error.response || error.message);
    process.exitCode = 1;
  });
