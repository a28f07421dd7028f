// The subcommands of the program. Each takes the arguments from its own name on and returns the
// exit status: 0, 1 for an error, 2 for wrong usage.
#ifndef MLA_APPS_COMMANDS_H_
#define MLA_APPS_COMMANDS_H_

namespace mla {

int RunCommand(int argc, char** argv);
int ChatCommand(int argc, char** argv);
int LogitsCommand(int argc, char** argv);
int PerplexityCommand(int argc, char** argv);
int TokenizeCommand(int argc, char** argv);
int InspectCommand(int argc, char** argv);
int QuantizeCommand(int argc, char** argv);
int BenchCommand(int argc, char** argv);
int PlanCommand(int argc, char** argv);
int CompareCommand(int argc, char** argv);

}  // namespace mla

#endif  // MLA_APPS_COMMANDS_H_
