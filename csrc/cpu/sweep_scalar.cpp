#include "lanes_scalar.h"
#include "sweep-inl.h"
