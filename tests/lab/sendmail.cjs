// Submits one message by nodemailer's sendmail transport: node sendmail.cjs '{"path": ..., "message": {...}}'
const nodemailer = require("nodemailer");

const options = JSON.parse(process.argv[2]);
nodemailer
  .createTransport({ sendmail: true, path: options.path, newline: "unix" })
  .sendMail(options.message)
  .then((info) => console.log(JSON.stringify(info.envelope)))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
