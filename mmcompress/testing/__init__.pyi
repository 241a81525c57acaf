from .contract import Broken as Broken
from .methods import check_method as check_method
from .models import check_backbone as check_backbone
