// Submits one message by nodemailer: node send.cjs '{"host": ..., "port": ..., "user": ..., ...}'
const nodemailer = require("nodemailer");
const fs = require("node:fs");

const options = JSON.parse(process.argv[2]);
const transport = nodemailer.createTransport({
  host: options.host,
  port: options.port,
  secure: false,
  requireTLS: true,
  tls: { ca: fs.readFileSync(options.ca), servername: options.name },
  auth: { user: options.user, pass: options.password },
});
transport
  .sendMail({
    envelope: { from: options.from, to: options.to },
    raw: fs.readFileSync(options.file),
    requireTLSExtensionEnabled: true,
  })
  .then((info) => console.log(info.response))
  .catch((error) => {
    console.error(error.response || error.message);
    process.exitCode = 1;
  });
