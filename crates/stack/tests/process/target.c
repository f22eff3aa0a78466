/* A program in C, which is linked with another C library. */

#include <stdio.h>
#include <unistd.h>

__attribute__((noinline)) void waits_for_input(void) {
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    __asm__ volatile("");
}

int main(void) {
    puts("ready");
    fflush(stdout);
    waits_for_input();
    return 0;
}
