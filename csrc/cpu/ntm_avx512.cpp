#include "lanes_avx512.h"
#include "ntm-inl.h"
