// Handing an error up, in one line: the two macros that the command line's code uses.
//
//   CLI_RETURN_IF_ERROR(Write(text));
//   CLI_ASSIGN_OR_RETURN(const Client* client, invocation.Connect());
//
// Threading:  n/a.
// Ownership:  the value is moved out of the StatusOr.
// Errors:     returns the status from the function around it.
// Limits:     inside client/cli only: not part of any interface.
#ifndef PENSTOCK_CLIENT_CLI_RETURNING_H_
#define PENSTOCK_CLIENT_CLI_RETURNING_H_

#define CLI_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                 \
    if (::absl::Status cli_status = (expression); !cli_status.ok()) return cli_status; \
  } while (false)

#define CLI_JOIN_INNER(a, b) a##b
#define CLI_JOIN(a, b) CLI_JOIN_INNER(a, b)
#define CLI_ASSIGN_OR_RETURN(target, expression) \
  CLI_ASSIGN_INNER(CLI_JOIN(cli_result_, __LINE__), target, expression)
#define CLI_ASSIGN_INNER(result, target, expression) \
  auto result = (expression);                        \
  if (!result.ok()) return result.status();          \
  target = *std::move(result)

#endif  // PENSTOCK_CLIENT_CLI_RETURNING_H_
