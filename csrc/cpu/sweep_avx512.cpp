#include "lanes_avx512.h"
#include "sweep-inl.h"
