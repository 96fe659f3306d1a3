// volk's one translation unit: entry points of Vulkan, found in a loader that is opened at run time.
#define VOLK_IMPLEMENTATION
#include <volk.h>
