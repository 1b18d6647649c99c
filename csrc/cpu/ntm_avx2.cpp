#include "lanes_avx2.h"
#include "ntm-inl.h"
