#include "lanes_scalar.h"
#include "ntm-inl.h"
