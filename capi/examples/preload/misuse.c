/*
 * Frees what it must not, which the pool refuses, and goes on. (glibc would end the program.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    static char foreign[64];
    char *block = malloc(100), *freed = malloc(100);
    strcpy(block, "kept");
    free(freed);
    for (int times = 0; times < 3; times++) {
        free(freed);
        free(block + 8);
        free(foreign);
    }
    if (realloc(freed, 200) != NULL || strcmp(block, "kept") != 0) {
        return 1;
    }
    free(block);
    puts("still here");
    return 0;
}
