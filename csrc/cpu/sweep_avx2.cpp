#include "lanes_avx2.h"
#include "sweep-inl.h"
