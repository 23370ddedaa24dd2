/* tools: the commands beside `serve`, one file each. Each returns the exit status. */
#ifndef SAPID_TOOLS_TOOLS_H
#define SAPID_TOOLS_TOOLS_H

int bench_main(int argc, char **argv);
int doctor_main(int argc, char **argv);

#endif
