// The help of settings in Chinese, by key; a setting without one has its English help.
export const help = {};
